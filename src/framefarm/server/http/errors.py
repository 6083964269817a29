"""The one table from the farm's errors to answers (RFC 9457)."""

from __future__ import annotations

import errno
import json
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from framefarm.core.errors import (
    Conflict,
    FarmError,
    FieldError,
    InFlight,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    TooLarge,
    TooMany,
    Unavailable,
    WrongKind,
)
from framefarm.server.http.validation_messages import field_errors

log = structlog.get_logger(__name__)


STATUS: dict[type[FarmError], int] = {
    InvalidInput: 422,
    NotAuthenticated: 401,
    NotAllowed: 403,
    NotFound: 404,
    InFlight: 409,
    Conflict: 409,
    TooLarge: 413,
    WrongKind: 415,
    TooMany: 429,
    Unavailable: 503,
}
"""The one error table."""


def problem(
    request: Request, status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """An answer as RFC 9457 wants it."""
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": _utf8(detail),
        "request_id": getattr(request.state, "id", ""),
    } | more
    return Response(msgspec.json.encode(body), status, headers, media_type="application/problem+json")


def of_error(request: Request, error: FarmError) -> Response:
    """A domain error as an answer, by the table."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 400)
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    if isinstance(error, InvalidInput):
        more["errors"] = [_plain(e) for e in error.errors]
    if isinstance(error, Conflict):
        more |= error.facts
    if (later := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(later)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return problem(request, status, error.title, error.detail, headers, **more)


def unexpected(request: Request, error: Exception) -> Response:
    """The farm's own mistake, or a full disk."""
    if disk_is_full(error):
        return of_error(request, Unavailable("The farm's disk is full; nothing was stored.", 30))
    log.error(
        "request_failed", request_id=getattr(request.state, "id", ""), path=request.url.path, exc_info=error
    )
    return problem(
        request, 500, "Internal error", "The farm made a mistake; it is logged under this request_id."
    )


def install(app: FastAPI) -> None:
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(FarmError, _farm)


def _utf8(text: str) -> str:
    """What was given may hold lone surrogates, which no answer can carry."""
    return text.encode("utf-8", "replace").decode()


def _plain(error: FieldError) -> dict[str, Any]:
    given = error.given
    if isinstance(given, bytes):
        given = given.decode("utf-8", "replace")
    if isinstance(given, str):
        given = _utf8(given[:200])
    elif not isinstance(given, (int, float, bool, type(None))):
        text = _beginning(given)
        given = json.loads(_utf8(text)) if len(text) <= 200 and "\\ud" not in text else _utf8(text[:200])
    return {"field": _utf8(error.field), "message": _utf8(error.message), "given": given}


def _beginning(given: Any) -> str:
    """As JSON; of what is long the first 200 characters and some: the whole may be a whole body."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(given):
        text += piece[:400]
        if len(text) > 200:
            break
    return text


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [i | {"loc": i["loc"][1:] if i["loc"][0] in SOURCES else i["loc"]} for i in error.errors()]
    return of_error(request, InvalidInput(field_errors(found)))


SOURCES = frozenset({"body", "query", "path", "header", "cookie"})


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    words = {404: "There is nothing at this address.", 405: f"{request.method} is not possible here."}
    return problem(
        request, error.status_code, str(error.detail), words.get(error.status_code, str(error.detail)),
        headers,
    )  # fmt: skip


def _allowed(request: Request) -> list[str]:
    """Every method of this address: the framework names those of the first route only."""
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= set(getattr(route, "methods", None) or ())
    return sorted(found)


def _farm(request: Request, error: Exception) -> Response:
    assert isinstance(error, FarmError)
    return of_error(request, error)


def disk_is_full(error: Exception) -> bool:
    """Whether it came of a full disk, under a file or the database."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return isinstance(error, sa.exc.OperationalError) and "full" in str(error.orig)
