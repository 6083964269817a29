"""The edge around every request: request id, log, metrics, errors, and the limits of its body.

Each JSON body is read and parsed once, here; large ones in a thread, and a limited number at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

import structlog
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from framefarm.core.errors import FarmError, InvalidInput, TooLarge, TooMany, Unavailable, WrongKind
from framefarm.server.actor import Actor
from framefarm.server.context import AppContext
from framefarm.server.http import errors
from framefarm.server.http.errors import of_error, problem, unexpected
from framefarm.server.json_types import Json
from framefarm.server.metrics import HTTP_SECONDS
from framefarm.server.tracing import span

log = structlog.get_logger(__name__)

Authenticate = Callable[[Request], Awaitable[Actor]]
"""Returns a request's caller. Raises NotAuthenticated."""
ANONYMOUS_BYTES = 64 << 10
"""Most bytes of a body that are received before its sender is authenticated."""
ANONYMOUS_SECONDS, BODY_SECONDS = 20.0, 300.0
"""Time limits of a body's arrival: before its sender is authenticated, and after."""
LARGE_BYTES = 1 << 20
"""Largest body of a route outside of `LARGE`; bodies above it count as large."""
LARGE = frozenset({"/api/jobs", "/api/uploads/md5"})
"""Routes that accept up to `max_json_bytes`."""
LARGE_OF_ONE, LARGE_AT_ONCE = 2, 16
"""Most large bodies in work at once: of one user, and of all."""
MAX_COMMAS = 2_000_000
"""Most commas of a body: the number of values decides how long parsing takes. A job of 100,000 paths with
their hashes has 300,000."""
MAX_FIELDS = 1000
"""Most fields of a body: unknown fields are reported one by one, so their number is limited."""
SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1
STREAMED = frozenset({"/api/uploads/file"})
"""Routes that read and limit their body themselves while it arrives."""
PARSED = "framefarm_json"
"""Key of a parsed body in the request's scope."""


class _TooSlow(Exception):
    """A body did not arrive within its time limit."""


class RequestLimiter:
    """Middleware that gives each request an id, and lets only bodies through that pass `check_json`."""

    def __init__(self, app: ASGIApp, context: AppContext, authenticate: Authenticate) -> None:
        self.app, self.context, self.authenticate = app, context, authenticate
        self.large: Counter[str] = Counter()
        """Large bodies in work, by user id."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["id"] = request_id

        began = time.perf_counter()

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                _measure(scope, message["status"], time.perf_counter() - began)
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            span(scope["method"], request_id=request_id) as here,
        ):
            await self._pass(scope, receive, stamped)
            here.name(f"{scope['method']} {getattr(scope.get('route'), 'path', 'none')}")

    async def _pass(self, scope: Scope, receive: Receive, stamped: Send) -> None:
        request = Request(scope, receive)
        try:
            if self.context.draining and scope["method"] not in {"GET", "HEAD", "OPTIONS"}:
                raise Unavailable("The farm is stopping; try again in a moment.", 5)
            if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
                raise InvalidInput.of("address", "must not hold a NUL character", None)
            if scope["method"] in {"POST", "PUT", "PATCH"} and scope["path"] not in STREAMED:
                async with self._body(request) as receive:
                    await self.app(scope, receive, stamped)
            else:
                await self.app(scope, receive, stamped)
        except ClientDisconnect:
            return
        except _TooSlow:
            text = "The body did not arrive in time."
            await problem(request, 408, "Too slow", text, {"Connection": "close"})(scope, receive, stamped)
        except FarmError as error:
            await of_error(request, error)(scope, receive, stamped)
        except Exception as error:
            await unexpected(request, error)(scope, receive, stamped)

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[Receive]:
        """The checked body, as an ASGI `receive`. A large one counts as in work until the context ends."""
        async with contextlib.AsyncExitStack() as held:
            body = await self._read(request, held)
            if body:
                media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
                if media_type != "application/json":
                    raise WrongKind(f"Send Content-Type: application/json, not {media_type[:100] or 'none'}.")
                if len(body) > ANONYMOUS_BYTES:
                    request.scope[PARSED] = await run_in_threadpool(check_json, body)
                else:
                    request.scope[PARSED] = check_json(body)
            sent = False

            async def receive() -> Message:
                nonlocal sent
                if sent:
                    return await request._receive()
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}

            yield receive

    async def _read(self, request: Request, held: contextlib.AsyncExitStack) -> bytes:
        """Raises TooLarge, TooMany, Unavailable, NotAuthenticated, _TooSlow."""
        limit = self.context.settings.max_json_bytes
        if request.scope["path"] not in LARGE:
            limit = min(limit, LARGE_BYTES)
        body = bytearray()
        sender: Actor | None = None
        large = False
        try:
            async with asyncio.timeout(ANONYMOUS_SECONDS) as time_limit:
                async for piece in request.stream():
                    body += piece
                    if len(body) > limit:
                        raise TooLarge(f"The body is larger than {limit} bytes.")
                    if len(body) > ANONYMOUS_BYTES and sender is None:
                        sender = await self.authenticate(request)
                        time_limit.reschedule(asyncio.get_running_loop().time() + BODY_SECONDS)
                    if len(body) > LARGE_BYTES and sender is not None and not large:
                        large = True
                        held.enter_context(self._large(sender))
        except TimeoutError:
            raise _TooSlow from None
        return bytes(body)

    @contextlib.contextmanager
    def _large(self, sender: Actor) -> Iterator[None]:
        if self.large[sender.user_id] >= LARGE_OF_ONE:
            sentence = f"Send at most {LARGE_OF_ONE} bodies of more than {LARGE_BYTES >> 20} MiB at once."
            raise TooMany(sentence, 1)
        if self.large.total() >= LARGE_AT_ONCE:
            raise Unavailable("The farm reads many large requests; try again in a moment.", 1)
        self.large[sender.user_id] += 1
        try:
            yield
        finally:
            self.large[sender.user_id] -= 1
            self.large += Counter()  # drops users without any


def _measure(scope: Scope, status: int, seconds: float) -> None:
    """Count the request under its route's pattern, without the path's own values, and log it."""
    route = getattr(scope.get("route"), "path", "none")
    HTTP_SECONDS.labels(scope["method"], route, f"{status // 100}xx").observe(seconds)
    quiet = scope["method"] in {"GET", "HEAD", "OPTIONS"} and status < 500
    (log.debug if quiet else log.info)(
        "request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1000, 1)
    )


class ReadOnce(APIRoute):
    """A route that uses the body parsed at the edge: parsing again would hold up all other requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        handle = super().get_route_handler()

        async def with_parsed(request: Request) -> Response:
            return await handle(_Parsed(request.scope, request.receive))

        return with_parsed


class _Parsed(Request):
    async def json(self) -> Json:
        return self.scope[PARSED]


def check_json(body: bytes) -> Json:
    """The parsed body (free JSON: the route's model checks it).

    Raises InvalidInput for a body that is no JSON in UTF-8, is nested too deep, has too many values, or holds
    NUL characters, numbers beyond 64 bits, `NaN` or `Infinity`.
    """
    if body.count(b",") > MAX_COMMAS:
        raise InvalidInput.of("body", f"has more than {MAX_COMMAS:,} commas", None)
    try:
        text = body.decode()
        value = json.loads(text, parse_int=_whole, parse_float=_real, parse_constant=_constant)
    except UnicodeDecodeError:
        raise InvalidInput.of("body", "is not JSON: it is not in valid UTF-8", None) from None
    except json.JSONDecodeError as error:
        sentence = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidInput.of("body", sentence, text[max(0, error.pos - 10) : error.pos + 20]) from None
    except RecursionError:
        raise InvalidInput.of("body", "is nested too deep", None) from None
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        raise InvalidInput.of("body", f"has more than {MAX_FIELDS} fields", len(value))
    if "\\u0000" in text and _holds_nul(value):
        raise InvalidInput.of("body", "must not hold a NUL character", None)
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or not SMALLEST <= int(digits) <= LARGEST:
        raise InvalidInput.of("body", "holds a number beyond 64 bits", digits[:40])
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidInput.of("body", "holds a number beyond 64 bits", digits[:40])
    return number


def _constant(name: str) -> None:
    raise InvalidInput.of("body", f"is not JSON: {name} is not a number there", name)


def _holds_nul(value: Json) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(member) for key, member in value.items())
    return isinstance(value, list) and any(map(_holds_nul, value))


def install(app: FastAPI, authenticate: Authenticate) -> None:
    """Put the error answers and the limiter around all routes."""
    errors.install(app)
    app.add_middleware(RequestLimiter, context=app.state.context, authenticate=authenticate)
