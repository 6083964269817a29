"""Limits of connections: closes idle and slow ones on time-out, or oldest first when the limit is reached.

uvicorn's own limit (`limit_concurrency`) refuses the newest connection, so that a flood of idle ones would
shut the runners out. This module extends uvicorn's `HttpToolsProtocol` and uses names of it that uvicorn does
not document. So pyproject.toml admits one minor version of uvicorn only, and
`tests/server/test_connection_limits.py` checks the names.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

    from framefarm.server.json_types import Json

log = structlog.get_logger(__name__)
HEAD_SECONDS = 20.0
"""Time limit of a request's head, since its first byte; of the first request, since the connection."""
SILENCE_SECONDS = 120.0
"""Longest silence of a sender in the middle of a body that the farm waits for, and longest time in which a
client reads nothing of an answer."""
HEAD_BYTES = 128 << 10
"""Largest head of a request."""
NODE = b"/node/"
"""Prefix of the paths that runners call."""
RUNNER = "runner"
"""Key in a request's `scope["state"]` once its session token was checked."""
KNOWN = "known"
"""Key in a request's `scope["state"]` once its user's token was checked."""


class ConnectionLimiter:
    """All connections of a server, grouped by why they may be closed. `limit`: most connections.

    While none may be closed, up to a quarter more is accepted; of these only runners' calls are answered.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.all: set[Connection] = set()
        self.awaiting_request: dict[Connection, float] = {}
        """Connections without a complete head of their next request; since when (loop time), oldest first."""
        self.idle: dict[Connection, None] = {}
        """Connections kept alive after an answer, oldest first; none of a runner."""
        self.sending: dict[Connection, float] = {}
        """Connections in the middle of a body; loop time of its last piece, oldest first."""
        self.not_reading: dict[Connection, float] = {}
        """Connections that do not read their answer; since when (loop time), oldest first."""
        self._timer: asyncio.TimerHandle | None = None

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Json],  # free: the application's own
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """Factory of connections, for uvicorn's option `http`."""
        return Connection(self, config, server_state, app_state, _loop)

    def admit(self, newest: Connection) -> bool:
        """Add a connection, if need be by closing another one. False: it is above the limit."""
        self.all.add(newest)
        if len(self.all) <= self.limit:
            return True
        if closable := self._first_closable():
            closable.drop("room is needed")
            return True
        if len(self.all) > self.limit + max(1, self.limit // 4):
            newest.drop("no room")
        return False

    def _first_closable(self) -> Connection | None:
        """The connection to close first. Anonymous ones may also be closed in the middle of a body or an
        answer: else they could fill the farm at no cost."""
        if oldest := next(iter(self.awaiting_request), None) or next(iter(self.idle), None):
            return oldest
        return next((c for group in (self.not_reading, self.sending) for c in group if c.is_anonymous), None)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer of `drop_overdue` for the first connection that reaches a time limit."""
        if self._timer is None and (due := self._due()) is not None:
            self._timer = loop.call_at(due, self.drop_overdue, loop)

    def drop_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that have reached a time limit."""
        self._timer, now = None, loop.time()
        while overdue := _first_before(self.awaiting_request, now - HEAD_SECONDS):
            overdue.drop("no request")
        while overdue := _first_before(self.sending, now - SILENCE_SECONDS):
            if overdue.flow.read_paused:  # the farm itself does not read
                self.restart_silence(overdue, now)
            else:
                overdue.drop("silent in the middle of a body")
        while overdue := _first_before(self.not_reading, now - SILENCE_SECONDS):
            overdue.drop("takes nothing of an answer")
        self.watch(loop)

    def restart_silence(self, connection: Connection, now: float) -> None:
        """Count a sender's silence from now (loop time)."""
        self.sending.pop(connection, None)
        self.sending[connection] = now

    def mark_busy(self, connection: Connection) -> None:
        """Keep a connection with a request in work from being closed."""
        for group in (self.awaiting_request, self.idle, self.sending):
            group.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.mark_busy(connection)
        self.not_reading.pop(connection, None)
        self.all.discard(connection)

    def _due(self) -> float | None:
        due = [since + HEAD_SECONDS for since in list(self.awaiting_request.values())[:1]]
        for group in (self.sending, self.not_reading):
            due += [since + SILENCE_SECONDS for since in list(group.values())[:1]]
        return min(due, default=None)


def _first_before(group: dict[Connection, float], moment: float) -> Connection | None:
    """The group's oldest connection, if its loop time is not after `moment`."""
    oldest = next(iter(group), None)
    return oldest if oldest is not None and group[oldest] <= moment else None


class Connection(HttpToolsProtocol):
    """One client's connection, whose state the limiter follows."""

    def __init__(
        self,
        limiter: ConnectionLimiter,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Json],
        _loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limiter = limiter
        self._head_due, self._in_head, self._head_bytes = True, False, 0
        self._within_limit = True
        self._unanswered: list[RequestResponseCycle] = []
        """Requests without an answer; `cycle` is the last of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._within_limit = self._limiter.admit(self)
        if not transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limiter.forget(self)
        for cycle in self._unanswered:  # uvicorn notifies only the last one
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()
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
            self._limiter.restart_silence(self, self.loop.time())
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
    def is_anonymous(self) -> bool:
        """Whether no token of its request in work was checked so far."""
        state = {} if self.cycle is None else self.cycle.scope["state"]
        return RUNNER not in state and KNOWN not in state

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_due = self._in_head = False
        self._limiter.mark_busy(self)
        if not self._within_limit:
            self.app = self.config.loaded_app if self.url.startswith(NODE) else service_unavailable
        super().on_headers_complete()
        self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
        if self.cycle is not None:
            self._unanswered.append(self.cycle)

    def on_response_complete(self) -> None:
        runner = RUNNER in self.cycle.scope["state"]
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete and not self._head_due:
            self._limiter.mark_busy(self)
            if not runner:
                self._limiter.idle[self] = None

    def drop(self, why: str) -> None:
        """Close the connection at once; `why` is for the log."""
        log.debug("connection_dropped", why=why)
        self._limiter.forget(self)
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_due = True
        self._limiter.mark_busy(self)
        self._limiter.awaiting_request[self] = self.loop.time()
        self._limiter.watch(self.loop)
