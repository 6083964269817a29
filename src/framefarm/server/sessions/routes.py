"""The node API, which runners call. Not part of the public API; plain Starlette and msgspec, for speed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from msgspec.json import decode
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from framefarm.core.errors import Conflict, FarmError, NotAuthenticated, NotFound, TooLarge
from framefarm.protocol import node as msg
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import manifests
from framefarm.server.http.connection_limits import RUNNER
from framefarm.server.http.errors import disk_is_full
from framefarm.server.http.request_limits import ANONYMOUS_BYTES
from framefarm.server.sessions import progress, service
from framefarm.server.sessions.progress import Progress
from framefarm.server.tracing import span

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=msg.Message)
MAX_WAIT_SECONDS = 20.0
MAX_BODY_BYTES = 32 << 20
"""A runner's largest report: 4,000 files, each path of 8 parts of 255 characters that JSON may escape."""
THREAD_BYTES = 1 << 18
"""A longer body is decoded in a thread, so that the event loop goes on."""
MAX_FRAME = 1_048_574
PROGRESS_SECONDS = 1.5
"""Least time between two reports of progress by one session."""
PROGRESS_CALLS_A_SECOND = 200
"""Most calls a second that only report progress; with more sessions each reports less often."""


class NodeApi:
    """Routes below `/node/v1`, and the leases of the sessions whose calls are held open."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.held: dict[str, object] = {}
        """Session → its newest sync. That one is held open; older ones are answered at once."""
        self.heard: set[str] = set()
        """Sessions that reported since their leases were last renewed."""
        self.progress: dict[str, Progress] = {}
        """Session → its latest progress that is not written to the database yet."""

    def router(self) -> Router:
        base = "/node/v1/sessions/{session}"
        return Router(
            [
                Route(f"{base}/reports", self._guard(self.report), methods=["POST"]),
                Route(f"{base}/sync", self._guard(self.sync), methods=["POST"]),
                Route(f"{base}/hello", self._guard(self.hello), methods=["POST"]),
                Route(f"{base}/inputs", self._guard(self.inputs), methods=["GET"]),
            ]
        )

    async def hello(self, request: Request, session: str, token: str) -> msg.SessionConfig:
        body = await self._body(request, session, token, msg.Hello)
        return await self.context.db.write(service.hello, self.context, session, token, body)

    async def inputs(self, _request: Request, session: str, token: str) -> msg.Inputs:
        account, sha256, aliases = await self.context.db.read(
            service.manifest_of, self.context, session, token
        )

        def gather() -> msg.Inputs:
            store = self.context.store
            entries = manifests.load(store, account, sha256)
            inputs = {
                e.path: msg.Input(
                    path=e.path,
                    sha256=e.sha256,
                    size=e.size,
                    source=str(store.path(e.content_key(account))),
                )
                for e in entries
                if e.sha256 is not None and e.size is not None
            }
            renamed = [msgspec.structs.replace(inputs[real], path=name) for name, real in aliases]
            return msg.Inputs(inputs=[*inputs.values(), *renamed])

        return await run_in_threadpool(gather)

    async def sync(self, request: Request, session: str, token: str) -> msg.DesiredState:
        body = await self._body(request, session, token, msg.Sync)
        context, this_call = self.context, object()
        job = await context.db.read(service.job_of, context, session, token)
        older = self.held.get(session)
        self.held[session] = this_call
        if older is not None:
            context.hub.wake(f"session:{session}")
        began = time.monotonic()
        longest = min(body.wait_seconds, MAX_WAIT_SECONDS, context.settings.lease_seconds / 3)
        try:
            self._keep_progress(session, job, body.progress)
            async with context.hub.listen(f"session:{session}", f"job:{job}") as woken:
                answer = await self._desired(session, token)
                while (
                    answer.version == body.seen
                    and self.held.get(session) is this_call
                    and not context.draining
                ):
                    wait = min(longest, self._progress_seconds()) if answer.tasks else longest
                    if not await woken.wait(began + wait - time.monotonic()):
                        break
                    answer = await self._desired(session, token)
            return answer
        finally:
            if self.held.get(session) is this_call:
                del self.held[session]

    async def report(self, request: Request, session: str, token: str) -> msg.ReportReply:
        body = await self._body(request, session, token, msg.Report)
        reply = await self.context.db.write(service.report, self.context, session, token, body)
        self.heard.add(session)
        return reply

    def _progress_seconds(self) -> float:
        """How long the call of a rendering session is held; its next one reports progress."""
        return max(PROGRESS_SECONDS, len(self.held) / PROGRESS_CALLS_A_SECOND)

    async def _desired(self, session: str, token: str) -> msg.DesiredState:
        """The session's desired state. Writes to the database only where an assignment may be due."""
        self.heard.add(session)
        unchanged = await self.context.db.read(service.desired_unless_due, self.context, session, token)
        if unchanged is not None:
            return unchanged
        return await self.context.db.write(service.sync, self.context, session, token)

    def _keep_progress(self, session: str, job: str, reported: msg.Progress | None) -> None:
        """Keep a report of progress, if it can be true: a runner may send any values."""
        if reported is None or not -MAX_FRAME <= reported.frame <= MAX_FRAME or len(reported.attempt) > 100:
            return
        self.progress[session] = Progress(session, job, reported.attempt, reported.frame, reported.fraction)

    async def _body(self, request: Request, session: str, token: str, message: type[M]) -> M:
        """The call's body. Above STRANGERS_BYTES it is read only for a session with a valid token.

        Raises TooLarge, NotAuthenticated, SessionOver, msgspec.DecodeError, msgspec.ValidationError.
        """
        body = bytearray()
        known = False
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
            if len(body) > ANONYMOUS_BYTES and not known:
                await self.context.db.read(service.job_of, self.context, session, token)
                known = True
        if len(body) > THREAD_BYTES:
            return await run_in_threadpool(decode, body, type=message)
        return decode(body, type=message)

    async def renew_held(self) -> None:
        """Renew the leases of all sessions that called here or whose call is held, and record their
        progress, in one commit."""
        alive, reported = self.heard | self.held.keys(), list(self.progress.values())
        self.heard.clear()
        self.progress.clear()

        def work(tx: Tx) -> None:
            service.renew(tx, self.context, sorted(alive))
            progress.record(tx, reported)

        if alive or reported:
            await self.context.db.write(work)

    def _guard(
        self, call: Callable[[Request, str, str], Awaitable[msg.Message]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that checks for a token, and turns the call's answer or error into a response."""

        async def endpoint(request: Request) -> Response:
            try:
                scheme, _, token = request.headers.get("authorization", "").partition(" ")
                if scheme.lower() != "bearer" or not token:
                    raise NotAuthenticated("A session token is needed.")
                session = request.path_params["session"]
                name = f"runner {call.__name__}"
                with (
                    structlog.contextvars.bound_contextvars(session=session[:100]),
                    span(name, session=session),
                ):
                    answer = await call(request, session, token)
                request.scope.setdefault("state", {})[RUNNER] = True
                return _json(200, answer)
            except msgspec.ValidationError as error:
                return _json(422, {"detail": str(error)})
            except msgspec.DecodeError as error:
                return _json(422, {"detail": f"not JSON: {error}"})
            except service.ReportGap as gap:
                return _json(409, msg.SequenceGap(expected=gap.expected))
            except (service.SessionOver, NotFound) as error:  # NotFound: its job was deleted
                return _json(410, {"detail": error.detail})
            except NotAuthenticated as error:
                return _json(401, {"detail": error.detail})
            except Conflict as error:
                return _json(409, {"detail": error.detail} | error.facts)
            except TooLarge as error:
                return _json(413, {"detail": error.detail})
            except FarmError as error:
                return _json(503, {"detail": error.detail})
            except Exception as error:
                if not disk_is_full(error):
                    raise
                # One line: a traceback for each call would be written to the same disk.
                log.warning("disk_full", call=call.__name__)
                return _json(503, {"detail": "The farm's disk is full; nothing was stored."})

        return endpoint


class NodeFirst:
    """Routes the runners' calls past the public API's layers: they are the hot path."""

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self.app, self.router = app, router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/node/"):
            await self.app(scope, receive, send)
            return
        # Without an application in its scope the router answers 404 and 405 by itself.
        await self.router({k: v for k, v in scope.items() if k != "app"}, receive, send)


def _json(status: int, body: msg.Message | dict[str, object]) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
