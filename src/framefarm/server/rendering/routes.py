"""The node API: what runners call. Not part of the public API; plain Starlette and msgspec, for speed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from framefarm.core.errors import Conflict, FarmError, NotAuthenticated, TooLarge
from framefarm.protocol import node as say
from framefarm.server.farm import Farm
from framefarm.server.files import manifests
from framefarm.server.http.edge import STRANGERS_BYTES
from framefarm.server.rendering import service

MAX_WAIT_SECONDS = 20.0
MAX_BODY_BYTES = 256 << 20
"""Of a report: what a machine has gathered while the farm did not answer."""


class NodeApi:
    """Routes below `/node/v1`, and the leases of the calls that are held open."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.held: dict[str, object] = {}
        """Session → the newest sync of it: that one is held, older ones are answered."""
        self.heard: set[str] = set()
        """Sessions that reported since their leases were last renewed."""

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

    async def hello(self, request: Request, session: str, token: str) -> Any:
        said = msgspec.json.decode(await self._body(request, session, token), type=say.Hello)
        return await self.farm.db.write(service.hello, self.farm, session, token, said)

    async def inputs(self, _request: Request, session: str, token: str) -> Any:
        account, sha256 = await self.farm.db.read(service.manifest_of, self.farm, session, token)

        def gather() -> say.Inputs:
            store = self.farm.store
            entries = manifests.load(store, account, sha256)
            return say.Inputs(
                inputs=[
                    say.Input(
                        path=e.path,
                        sha256=e.sha256,
                        size=e.size,
                        source=str(store.path(f"content/{account}/{e.sha256}/{e.generation}")),
                    )
                    for e in entries
                    if e.sha256 is not None and e.size is not None
                ]
            )

        return await run_in_threadpool(gather)

    async def sync(self, request: Request, session: str, token: str) -> Any:
        said = msgspec.json.decode(await self._body(request, session, token), type=say.Sync)
        farm, me = self.farm, object()
        job_id = await farm.db.read(service.job_of, farm, session, token)
        older = self.held.get(session)
        self.held[session] = me
        if older is not None:
            farm.hub.wake(f"session:{session}")
        deadline = time.monotonic() + min(
            said.wait_seconds, MAX_WAIT_SECONDS, farm.settings.lease_seconds / 3
        )
        try:
            async with farm.hub.listen(f"session:{session}", f"job:{job_id}") as woken:
                answer = await farm.db.write(service.sync, farm, session, token)
                while answer.version == said.seen and self.held.get(session) is me and not farm.draining:
                    if not await woken.wait(deadline - time.monotonic()):
                        break
                    seen = await farm.db.read(service.look, farm, session, token)
                    if seen is not None:
                        answer = seen
                        continue
                    answer = await farm.db.write(service.sync, farm, session, token)
            return answer
        finally:
            if self.held.get(session) is me:
                del self.held[session]

    async def report(self, request: Request, session: str, token: str) -> Any:
        said = msgspec.json.decode(await self._body(request, session, token), type=say.Report)
        receipt = await self.farm.db.write(service.report, self.farm, session, token, said)
        self.heard.add(session)
        return receipt

    async def _body(self, request: Request, session: str, token: str) -> bytes:
        """Bounded, and beyond a little only of a session that is known."""
        body = bytearray()
        known = False
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
            if len(body) > STRANGERS_BYTES and not known:
                await self.farm.db.read(service.job_of, self.farm, session, token)
                known = True
        return bytes(body)

    async def renew_held(self) -> None:
        """Renew the leases of all sessions that called here or whose call is held, in one statement."""
        alive = self.heard | self.held.keys()
        self.heard.clear()
        if alive:
            await self.farm.db.write(service.renew, self.farm, sorted(alive))

    def _guard(
        self, call: Callable[[Request, str, str], Awaitable[Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                kind, _, token = request.headers.get("authorization", "").partition(" ")
                if kind.lower() != "bearer" or not token:
                    raise NotAuthenticated("A session token is needed.")
                answer = await call(request, request.path_params["session"], token)
                return _json(200, answer)
            except msgspec.ValidationError as error:
                return _json(422, {"detail": str(error)})
            except msgspec.DecodeError as error:
                return _json(422, {"detail": f"not JSON: {error}"})
            except service.ReportGap as gap:
                return _json(409, say.Gap(expected=gap.expected))
            except service.SessionOver as error:
                return _json(410, {"detail": error.detail})
            except NotAuthenticated as error:
                return _json(401, {"detail": error.detail})
            except Conflict as error:
                return _json(409, {"detail": error.detail} | error.facts)
            except TooLarge as error:
                return _json(413, {"detail": error.detail})
            except FarmError as error:
                return _json(503, {"detail": error.detail})

        return endpoint


class NodeFirst:
    """Takes the runners' calls out of the stream before the public API's layers: they are the hot path."""

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self.app, self.router = app, router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/node/"):
            await self.app(scope, receive, send)
            return
        # Without an application in its scope the router answers 404 and 405 by itself.
        await self.router({k: v for k, v in scope.items() if k != "app"}, receive, send)


def _json(status: int, body: Any) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
