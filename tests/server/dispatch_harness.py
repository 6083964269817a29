"""A farm with a fake engine, for tests of sessions, nodes and preemption."""

from __future__ import annotations

from typing import Any

from api_client import ApiClient
from fake_engine import FakeEngine, ManualDispatcher
from fake_session import FakeSession
from test_billing import FakeClock

from framefarm.server.sessions.tables import attempts, sessions

LEASE_MS = 20_000
TICK_MS = 10_000
"""The longest gap between ticks after which the leader still judges."""


class DispatchHarness:
    """A farm with a fake engine, and with a clock and a dispatcher that the test advances."""

    def __init__(self, site: ApiClient, cores: int = 2) -> None:
        self.site = site
        site.context.settings = site.context.settings.model_copy(update={"lease_seconds": LEASE_MS / 1000})
        self.clock = FakeClock(site)
        self.engine = FakeEngine(cores)
        self.dispatcher = ManualDispatcher(site.context, self.engine, site.loop)
        self.sessions: dict[str, FakeSession] = {}

    def turn(self) -> None:
        self.dispatcher.turn()
        for session_id, spec in self.engine.started.items():
            if session_id not in self.sessions:
                self.sessions[session_id] = FakeSession(self.site.context, spec)

    def silence(self, seconds: int) -> None:
        """Let `seconds` pass with ticks of the leader and without calls of runners."""
        for _ in range(seconds * 1000 // TICK_MS):
            self.clock.now_ms += TICK_MS
            self.turn()

    def call(self, *callers: FakeSession, seconds: int) -> None:
        """Let `seconds` pass while only these sessions call."""
        for _ in range(seconds * 1000 // TICK_MS):
            self.clock.now_ms += TICK_MS
            for session in callers:
                session.sync()
            self.turn()

    def alive(self) -> list[FakeSession]:
        return [s for s in self.sessions.values() if s.spec.id in self.engine.running]

    def start(self, count: int = 1) -> list[FakeSession]:
        """The first `count` sessions, with tasks in hand."""
        self.turn()
        started = self.alive()[:count]
        for session in started:
            session.hello()
            session.sync()
        assert len(started) == count
        return started

    def session(self, session: FakeSession) -> Any:
        return self.site.row(sessions, sessions.c.id == session.spec.id)

    def outcomes(self, session: FakeSession) -> list[str | None]:
        rows = self.site.rows(attempts, attempts.c.session_id == session.spec.id)
        return [a["outcome"] for a in sorted(rows, key=lambda a: a["id"])]

    def finish(self, job: str) -> str:
        """Let everything work until the job has ended; returns its status."""
        self.engine.answers = True
        for _ in range(100):
            self.turn()
            for session in self.alive():
                if not session.said_hello:
                    session.hello()
                for _ in range(30):
                    session.sync()
                    while not session.over and session.render() is not None:
                        pass
                    session.send()
                    if session.over or not (session.desk.tasks or session.outbox):
                        break
                if session.over or session.desk.done:
                    self.engine.die(session.spec.id)
            self.clock.now_ms += 1000
            self.site.publish()
            status = self.site.status(job)
            if status in {"success", "failed", "cancelled"}:
                return status
        raise AssertionError(f"the job is still {status}")
