"""The caller of a request, by its Bearer token; for reading also by the login's cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from framefarm.core.errors import NotAuthenticated
from framefarm.server.accounts import service
from framefarm.server.actor import Actor
from framefarm.server.http.connection_limits import KNOWN
from framefarm.server.http.context import context_of

COOKIE = "framefarm_session"

bearer = HTTPBearer(auto_error=False, description="The access_token of a login, or an API key.")


async def authenticate(request: Request) -> Actor:
    """The request's caller. Raises NotAuthenticated."""
    context = context_of(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        token = request.cookies.get(COOKIE, "") if request.method in {"GET", "HEAD"} else ""
    if not token:
        raise NotAuthenticated(
            "Log in first: POST /api/auth/login, then Authorization: Bearer <access_token>."
        )
    actor = await context.db.read(service.actor_of_token, context.keys, token.strip(), request.state.id)
    request.scope["state"][KNOWN] = True
    return actor


async def _caller(
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],  # in the OpenAPI document
) -> Actor:
    return await authenticate(request)


async def _writer(actor: Annotated[Actor, Depends(_caller)]) -> Actor:
    actor.must_write()
    return actor


async def _admin(actor: Annotated[Actor, Depends(_caller)]) -> Actor:
    actor.must_admin()
    return actor


Caller = Annotated[Actor, Depends(_caller)]
Writer = Annotated[Actor, Depends(_writer)]
Admin = Annotated[Actor, Depends(_admin)]
