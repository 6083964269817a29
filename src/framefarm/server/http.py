"""The HTTP edge: who calls, pages, idempotency, and the one table from errors to answers (RFC 9457)."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import sqlalchemy as sa
import structlog
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.tables import idempotency
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.farm import Farm
from framefarm.server.tenancy import scoped

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

COOKIE = "framefarm_session"
KEY_HOURS = 24
LARGEST = (1 << 63) - 1


def farm_of(request: Request) -> Farm:
    farm: Farm = request.app.state.farm
    return farm


# ------------------------------------------------------------------------------ who calls

bearer = HTTPBearer(auto_error=False, description="The access_token of a login, or an API key.")


async def _caller(request: Request, _seen: Annotated[Any, Depends(bearer)]) -> Actor:
    farm = farm_of(request)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        token = request.cookies.get(COOKIE, "") if request.method in {"GET", "HEAD"} else ""
    if not token:
        raise NotAuthenticated(
            "Log in first: POST /api/auth/login, then Authorization: Bearer <access_token>."
        )
    actor = await farm.db.read(accounts.who_is, farm.keys, token.strip(), request.state.id)
    request.state.actor = actor
    return actor


async def _writer(actor: Annotated[Actor, Depends(_caller)]) -> Actor:
    actor.must_write()
    return actor


async def _admin(actor: Annotated[Actor, Depends(_caller)]) -> Actor:
    actor.must_admin()
    return actor


Caller = Annotated[Actor, Depends(_caller)]
Writer = Annotated[Actor, Depends(_writer)]
Admin = Annotated[Actor, Depends(_admin)]


# --------------------------------------------------------------------------------- pages


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`?limit=…&cursor=…`: a cursor is signed, and bound to its route, filters and account."""

    limit: int
    cursor: str | None
    key: bytes

    def after(self, route: str, filters: Sequence[Any], actor: Actor) -> list[Any] | None:
        """What the cursor carries; None for the first page. Raises InvalidInput."""
        if self.cursor is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(self.cursor.encode("ascii") + b"=" * (-len(self.cursor) % 4))
            mac, body = raw[:16], raw[16:]
            if not hmac.compare_digest(mac, self._mac(body, route, filters, actor)):
                raise ValueError
            values: list[Any] = json.loads(body)
        except ValueError:
            text = "is not a cursor of this list, with these filters; start again without it"
            raise InvalidInput.of("cursor", text, self.cursor[:100]) from None
        return values

    def page(
        self,
        route: str,
        filters: Sequence[Any],
        actor: Actor,
        rows: list[Any],
        values: Callable[[Any], list[Any]],
    ) -> dict[str, Any]:
        """An answer from up to `limit + 1` rows: the extra one only tells that there are more."""
        data = rows[: self.limit]
        cursor = None
        if len(rows) > self.limit:
            body = json.dumps(values(data[-1])).encode()
            raw = self._mac(body, route, filters, actor) + body
            cursor = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return {"data": data, "next_cursor": cursor}

    def _mac(self, body: bytes, route: str, filters: Sequence[Any], actor: Actor) -> bytes:
        bound = json.dumps([route, list(filters), actor.account_id]).encode()
        return hmac.digest(self.key, bound + b"\0" + body, "sha256")[:16]


async def _paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> PageRequest:
    return PageRequest(limit, cursor, farm_of(request).keys.key("cursor"))


Paging = Annotated[PageRequest, Depends(_paging)]


# --------------------------------------------------------------------------- idempotency

_in_flight: set[tuple[str, ...]] = set()


async def command(
    request: Request, actor: Actor, body: BaseModel | str | None, work: Any, *args: Any, status: int = 200
) -> Response:
    """Run `work(tx, …)` as the answer to a POST, once per Idempotency-Key."""
    farm = farm_of(request)
    key = request.headers.get("idempotency-key")
    if key is None:
        return _answer(status, await farm.db.write(work, *args))
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidInput.of("Idempotency-Key", "must be 1 to 255 printable ASCII characters", key[:100])
    text = body.model_dump_json() if isinstance(body, BaseModel) else (body or "")
    digest = hashlib.sha256(f"{request.url.query}\n{text}".encode()).hexdigest()
    scope = (actor.account_id, actor.user_id, request.method, request.url.path, key)
    if scope in _in_flight:
        raise InFlight("A request with this Idempotency-Key is being worked on.")
    _in_flight.add(scope)
    try:
        found = await farm.db.write(_once, scope, digest, status, work, args)
    finally:
        _in_flight.discard(scope)
    return _answer(*found)


def _once(
    tx: Tx, scope: tuple[str, ...], digest: str, status: int, work: Any, args: tuple[Any, ...]
) -> tuple[int, Any]:
    names = ("account_id", "user_id", "method", "path", "key")
    known = dict(zip(names, scope, strict=True))
    query = scoped(sa.select(idempotency), idempotency, scope[0]).where(
        *(idempotency.c[n] == v for n, v in known.items())
    )
    row = tx.conn.execute(query).mappings().one_or_none()
    if row is not None and tx.now_ms - row["created_ms"] < KEY_HOURS * 3_600_000:
        if row["body_sha256"] != digest:
            raise Conflict("This Idempotency-Key was used with another body.")
        return row["status"], row["answer"]
    if row is not None:
        old = scoped(sa.delete(idempotency), idempotency, scope[0])
        tx.conn.execute(old.where(*(idempotency.c[n] == v for n, v in known.items())))
    answer = work(tx, *args)
    tx.conn.execute(
        sa.insert(idempotency).values(
            **known, body_sha256=digest, status=status, answer=answer, created_ms=tx.now_ms
        )
    )
    return status, answer


def _answer(status: int, body: Any) -> Response:
    return Response(status_code=204) if status == 204 else JSONResponse(body, status)


# -------------------------------------------------------------------------------- errors


def problem(
    request: Request, status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """An answer as RFC 9457 wants it."""
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": getattr(request.state, "id", ""),
    } | more
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def of_error(request: Request, error: FarmError) -> JSONResponse:
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


def _plain(error: FieldError) -> dict[str, Any]:
    given = error.given
    if isinstance(given, bytes):
        given = given.decode("utf-8", "replace")
    if isinstance(given, str):
        given = given[:200].encode("utf-8", "replace").decode()
    elif not isinstance(given, (int, float, bool, type(None))):
        given = json.loads(json.dumps(given, default=str)) if len(str(given)) <= 200 else str(given)[:200]
    return {"field": error.field, "message": error.message, "given": given}


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = []
    for item in error.errors():
        where = [str(p) for p in item["loc"] if p not in {"body", "query", "path", "header"}]
        if item["type"] == "json_invalid":
            text = str(item.get("ctx", {}).get("error", "it cannot be read"))
            found.append(FieldError("body", f"is not JSON: {text}", None))
            continue
        message = str(item["msg"]).removeprefix("Value error, ")
        given = None if item["type"] == "missing" else item.get("input")
        found.append(FieldError(".".join(where) or "body", message[0].lower() + message[1:], given))
    return of_error(request, InvalidInput(found))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # bytes that are no text, or lists a thousand deep
        return of_error(request, InvalidInput.of("body", "cannot be read as JSON"))
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


def _full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return isinstance(error, sa.exc.OperationalError) and "full" in str(error.orig)


def _unexpected(request: Request, error: Exception) -> Response:
    if _full(error):
        return of_error(request, Unavailable("The farm's disk is full; nothing was stored.", 30))
    log.error(
        "request_failed", request_id=getattr(request.state, "id", ""), path=request.url.path, exc_info=error
    )
    return problem(
        request, 500, "Internal error", "The farm made a mistake; it is logged under this request_id."
    )


# ---------------------------------------------------------------------------------- edge

_NUL = re.compile(rb"\x00|\\u0000")
_HUGE = re.compile(rb"(?<![\"\w.\-])-?\d{19,}(?![\"\w.])")


class Edge:
    """Request ids, the body limit, and what no field may hold: NUL characters, numbers beyond 64 bits."""

    def __init__(self, app: ASGIApp, farm: Farm) -> None:
        self.app, self.farm = app, farm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["id"] = request_id

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        request = Request(scope, receive)
        try:
            if self.farm.draining and scope["method"] not in {"GET", "HEAD", "OPTIONS"}:
                raise Unavailable("The farm is stopping; try again in a moment.", 5)
            if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
                raise InvalidInput.of("address", "must not hold a NUL character", None)
            kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
            if scope["method"] in {"POST", "PUT", "PATCH"} and kind != "multipart/form-data":
                receive = await self._checked(request, kind)
            await self.app(scope, receive, stamped)
        except FarmError as error:
            await of_error(request, error)(scope, receive, stamped)
        except Exception as error:
            await _unexpected(request, error)(scope, receive, stamped)

    async def _checked(self, request: Request, kind: str) -> Receive:
        limit = self.farm.settings.max_json_bytes
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise TooLarge(f"The body is larger than {limit} bytes.")
        if body:
            if kind not in {"application/json", ""}:
                raise WrongKind(f"Send application/json, not {kind[:100]}.")
            if _NUL.search(body):
                raise InvalidInput.of("body", "must not hold a NUL character", None)
            for number in _HUGE.findall(bytes(body)):
                if abs(int(number[:30])) > LARGEST:
                    raise InvalidInput.of("body", "holds a number beyond 64 bits", number[:40].decode())
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return await request._receive()
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return receive


def install(app: FastAPI) -> None:
    """The error table and the edge, around everything."""
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(FarmError, _farm)
    app.add_middleware(Edge, farm=app.state.farm)
