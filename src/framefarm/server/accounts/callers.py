"""Who calls: a Bearer token, or for reading the login's cookie."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from framefarm.core.errors import NotAuthenticated
from framefarm.server.accounts import service
from framefarm.server.actor import Actor
from framefarm.server.http.connection_limits import KNOWN
from framefarm.server.http.context import context_of

COOKIE = "framefarm_session"

bearer = HTTPBearer(auto_error=False, description="The access_token of a login, or an API key.")


async def who_calls(request: Request) -> Actor:
    """Raises NotAuthenticated."""
    context = context_of(request)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        token = request.cookies.get(COOKIE, "") if request.method in {"GET", "HEAD"} else ""
    if not token:
        raise NotAuthenticated(
            "Log in first: POST /api/auth/login, then Authorization: Bearer <access_token>."
        )
    actor = await context.db.read(service.who_is, context.keys, token.strip(), request.state.id)
    request.scope["state"][KNOWN] = True
    return actor


async def _caller(request: Request, _seen: Annotated[Any, Depends(bearer)]) -> Actor:
    return await who_calls(request)


async def _writer(actor: Annotated[Actor, Depends(_caller)]) -> Actor:
    actor.must_write()
    return actor


async def _admin(actor: Annotated[Actor, Depends(_caller)]) -> Actor:
    actor.must_admin()
    return actor


Caller = Annotated[Actor, Depends(_caller)]
Writer = Annotated[Actor, Depends(_writer)]
Admin = Annotated[Actor, Depends(_admin)]
