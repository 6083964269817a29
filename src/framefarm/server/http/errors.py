"""Answers to errors, as RFC 9457 problems; `STATUS` is the one table from the farm's errors to statuses."""

from __future__ import annotations

import errno
import json

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
from framefarm.server.json_types import Json

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
"""HTTP status of each class of errors; a subclass without an entry has its base's."""


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
    **members: Json,
) -> Response:
    """An RFC 9457 answer. `members` are further ones of the body (free JSON: each error has its own)."""
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": _utf8(detail),
        "request_id": getattr(request.state, "id", ""),
    } | members
    return Response(msgspec.json.encode(body), status, headers, media_type="application/problem+json")


def of_error(request: Request, error: FarmError) -> Response:
    """Answer to one of the farm's own errors."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 400)
    headers: dict[str, str] = {}
    members: dict[str, Json] = {}
    if isinstance(error, InvalidInput):
        members["errors"] = [_plain(e) for e in error.errors]
    if isinstance(error, Conflict):
        members |= error.facts
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(seconds)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return problem(request, status, error.title, error.detail, headers, **members)


def unexpected(request: Request, error: Exception) -> Response:
    """Answer to any other exception: 503 for a full disk, else 500; the exception is logged."""
    if disk_is_full(error):
        return of_error(request, Unavailable("The farm's disk is full; nothing was stored.", 30))
    log.error(
        "request_failed", request_id=getattr(request.state, "id", ""), path=request.url.path, exc_info=error
    )
    return problem(
        request, 500, "Internal error", "The farm made a mistake; it is logged under this request_id."
    )


def install(app: FastAPI) -> None:
    """Make the application answer all errors as problems."""
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(FarmError, _farm)


def _utf8(text: str) -> str:
    """Replace lone surrogates: a given value may hold them, and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _plain(error: FieldError) -> dict[str, Json]:
    given = error.given
    if isinstance(given, bytes):
        given = given.decode("utf-8", "replace")
    if isinstance(given, str):
        given = _utf8(given[:200])
    elif not isinstance(given, (int, float, bool, type(None))):
        text = _beginning(given)
        given = json.loads(_utf8(text)) if len(text) <= 200 and "\\ud" not in text else _utf8(text[:200])
    return {"field": _utf8(error.field), "message": _utf8(error.message), "given": given}


def _beginning(given: Json) -> str:
    """JSON text of a value, cut soon after 200 characters: it may be a whole body."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(given):
        text += piece[:400]
        if len(text) > 200:
            break
    return text


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [e | {"loc": e["loc"][1:] if e["loc"][0] in SOURCES else e["loc"]} for e in error.errors()]
    return of_error(request, InvalidInput(field_errors(found)))


SOURCES = frozenset({"body", "query", "path", "header", "cookie"})
"""First parts of a location in FastAPI's validation errors."""


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    sentences = {404: "There is nothing at this address.", 405: f"{request.method} is not possible here."}
    title = str(error.detail)
    return problem(request, error.status_code, title, sentences.get(error.status_code, title), headers)


def _allowed(request: Request) -> list[str]:
    """Methods of all routes of this address: Starlette's own error names those of the first only."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods)


def _farm(request: Request, error: Exception) -> Response:
    assert isinstance(error, FarmError)
    return of_error(request, error)


def disk_is_full(error: Exception) -> bool:
    """Whether a full disk caused the error, under a file or under SQLite."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return isinstance(error, sa.exc.OperationalError) and "full" in str(error.orig)
