"""Connections that cost the farm something and bring nothing: closed after a while, or when room is needed.

uvicorn's own limit (`limit_concurrency`) refuses the newest, whoever it is: a flood of idle connections would
shut the runners out. Here the one that has waited longest without a request gives way.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = structlog.get_logger(__name__)
HEAD_SECONDS = 20.0
"""How long the head of a request may take, from its first byte on; of the first, from the connection on."""
SILENCE_SECONDS = 120.0
"""How long a sender may be silent in the middle of a body that the farm waits for; and how long a client may
take nothing of what it is sent."""
HEAD_BYTES = 128 << 10
"""Most of a request's head."""
NODE = b"/node/"
RUNNER = "runner"
"""In a scope's state once a session's token was good."""
KNOWN = "known"
"""In a scope's state once a user's token was good."""


class ConnectionLimiter:
    """All connections of a server, and which of them may be closed. `limit`: most of them.

    While none can give way, a quarter more is let in: of these only the runners' calls are answered.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.all: set[Connection] = set()
        self.awaiting_request: dict[Connection, float] = {}
        """Those whose next request's head is not there yet; since when, longest first."""
        self.idle: dict[Connection, None] = {}
        """Those kept alive after an answer, longest first; none of a runner."""
        self.sending: dict[Connection, float] = {}
        """Those in the middle of a body; since when silent, longest first."""
        self.not_reading: dict[Connection, float] = {}
        """Those that do not take what they are sent; since when, longest first."""
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self, *args: Any, **more: Any) -> Connection:
        """What uvicorn takes as `http`."""
        return Connection(self, *args, **more)

    def let_in(self, newest: Connection) -> bool:
        """Whether there is room within the limit, be it made."""
        self.all.add(newest)
        if len(self.all) <= self.limit:
            return True
        if oldest := self._idlest():
            oldest.drop("room is needed")
            return True
        if len(self.all) > self.limit + max(1, self.limit // 4):
            newest.drop("no room")
        return False

    def _idlest(self) -> Connection | None:
        """Who gives way first. Strangers also do in the middle of a body or an answer: else they could fill
        the farm at no cost."""
        if oldest := next(iter(self.awaiting_request), None) or next(iter(self.idle), None):
            return oldest
        return next((c for group in (self.not_reading, self.sending) for c in group if c.is_strangers), None)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that `drop_overdue` runs when the first of them has waited too long."""
        if self._timer is None and (due := self._due()) is not None:
            self._timer = loop.call_at(due, self.drop_overdue, loop)

    def drop_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close those that have waited too long."""
        self._timer, now = None, loop.time()
        while (late := next(iter(self.awaiting_request), None)) and self.awaiting_request[
            late
        ] + HEAD_SECONDS <= now:
            late.drop("no request")
        while (late := next(iter(self.sending), None)) and self.sending[late] + SILENCE_SECONDS <= now:
            if late.flow.read_paused:  # it is the farm that does not read
                self.hear(late, now)
            else:
                late.drop("silent in the middle of a body")
        while (late := next(iter(self.not_reading), None)) and self.not_reading[
            late
        ] + SILENCE_SECONDS <= now:
            late.drop("takes nothing of an answer")
        self.watch(loop)

    def hear(self, connection: Connection, now: float) -> None:
        """It has sent a part of a body: it is silent since now."""
        self.sending.pop(connection, None)
        self.sending[connection] = now

    def busy(self, connection: Connection) -> None:
        """It has a request in work: it gives way to nobody."""
        for group in (self.awaiting_request, self.idle, self.sending):
            group.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        self.busy(connection)
        self.not_reading.pop(connection, None)
        self.all.discard(connection)

    def _due(self) -> float | None:
        due = [since + HEAD_SECONDS for since in list(self.awaiting_request.values())[:1]]
        for group in (self.sending, self.not_reading):
            due += [since + SILENCE_SECONDS for since in list(group.values())[:1]]
        return min(due, default=None)


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, limiter: ConnectionLimiter, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._limiter = limiter
        self._head_due, self._in_head, self._head_bytes = True, False, 0
        self._within_limit = True
        self._asked: list[RequestResponseCycle] = []
        """Requests that are not answered yet; `cycle` is the last of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._within_limit = self._limiter.let_in(self)
        if not transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limiter.forget(self)
        for cycle in self._asked:  # uvicorn tells the last one alone
            cycle.disconnected = True
            cycle.message_event.set()
        self._asked.clear()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._head_due and (
            self.cycle is None or self.cycle.response_complete or not self.cycle.more_body
        ):
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.drop("a head without end")
        elif not self._head_due and self.cycle.more_body and not self.cycle.response_complete:
            self._limiter.hear(self, self.loop.time())
            self._limiter.watch(self.loop)
        else:
            self._limiter.sending.pop(self, None)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self in self._limiter.all:
            self._limiter.not_reading[self] = self.loop.time()
            self._limiter.watch(self.loop)

    def resume_writing(self) -> None:
        self._limiter.not_reading.pop(self, None)
        super().resume_writing()

    @property
    def is_strangers(self) -> bool:
        """Whether nobody known has its request in work, as far as that was looked at."""
        state = {} if self.cycle is None else self.cycle.scope["state"]
        return RUNNER not in state and KNOWN not in state

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_due = self._in_head = False
        self._limiter.busy(self)
        if not self._within_limit:
            self.app = self.config.loaded_app if self.url.startswith(NODE) else service_unavailable
        super().on_headers_complete()
        self._asked = [cycle for cycle in self._asked if not cycle.response_complete]
        if self.cycle is not None:
            self._asked.append(self.cycle)

    def on_response_complete(self) -> None:
        runner = RUNNER in self.cycle.scope["state"]
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete and not self._head_due:
            self._limiter.busy(self)
            if not runner:
                self._limiter.idle[self] = None

    def drop(self, why: str) -> None:
        """Close it at once."""
        log.debug("connection_dropped", why=why)
        self._limiter.forget(self)
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_due = True
        self._limiter.busy(self)
        self._limiter.awaiting_request[self] = self.loop.time()
        self._limiter.watch(self.loop)
