"""Random faults of sessions, the engine and people: no frame is lost, none is committed twice."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from dispatch_harness import DispatchHarness
from fake_session import FakeSession
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from test_billing import books_agree
from ulid import ULID

from framefarm.protocol import node as msg
from framefarm.server import ids
from framefarm.server.jobs.tables import job_state, tasks
from framefarm.server.sessions.tables import attempts, frames, sessions

FRAMES = 10


class RandomFaults(RuleBasedStateMachine):
    """Sessions of one job that freeze, end, lose answers and report late, in any order."""

    def __init__(self, site: ApiClient) -> None:
        super().__init__()
        self.site = site

    @initialize(chunk=st.integers(1, 4), cores=st.integers(1, 3))
    def begin(self, chunk: int, cores: int) -> None:
        self.harness = DispatchHarness(self.site, cores)
        self.harness.engine.before_stop = self.may_be_stopped
        self.applied: set[tuple[str, int]] = set()
        self.cancelled = False
        self.job = self.site.submit(
            frame_range=f"1-{FRAMES}", chunk_size=chunk, task_retries=20, preemptible=False
        )["id"]
        self.harness.turn()

    def pick_session(self, pick: int) -> FakeSession | None:
        alive = [s for s in self.harness.alive() if not s.over]
        return alive[pick % len(alive)] if alive else None

    def may_be_stopped(self, session_id: str) -> None:
        """Check that a session that the engine is to stop owns no task."""
        own = sa.and_(attempts.c.session_id == session_id, attempts.c.outcome.is_(None))
        owned = [
            a
            for a in self.site.rows(attempts, own)
            if self.site.rows(tasks, tasks.c.attempt_id == a["id"], tasks.c.job_id == a["job_id"])
        ]
        assert owned == []

    @rule(calling=st.integers(0, 7), ticks=st.integers(1, 4))
    def time_passes(self, calling: int, ticks: int) -> None:
        """Let time pass while some sessions call and the others are frozen."""
        awake = [s for n, s in enumerate(self.harness.sessions.values()) if calling >> (n % 3) & 1]
        for _ in range(ticks):
            for session in awake:
                self.call(session)
            self.harness.silence(10)

    def call(self, session: FakeSession) -> None:
        if session.over or session.spec.id not in self.harness.engine.running:
            return
        if not session.said_hello:
            session.hello()
        session.sync()

    @rule(pick=st.integers(0, 5))
    def calls(self, pick: int) -> None:
        session = self.pick_session(pick)
        if session is not None:
            self.call(session)

    @rule(pick=st.integers(0, 5), count=st.integers(1, 3))
    def renders(self, pick: int, count: int) -> None:
        session = self.pick_session(pick)
        if session is None or not session.said_hello:
            return
        for _ in range(count):
            row = self.harness.session(session)
            connected = row["state"] != "lost" and row["version"] == session.desk.version
            self.harness.clock.now_ms += 20
            done = {f["frame"] for f in self.site.rows(frames, frames.c.job_id == self.job)}
            frame = session.render()
            assert frame is None or not connected or frame not in done

    @rule(pick=st.integers(0, 5))
    def fails(self, pick: int) -> None:
        session = self.pick_session(pick)
        if session is not None:
            session.fail()

    @rule(pick=st.integers(0, 5), hear=st.booleans())
    def reports(self, pick: int, hear: bool) -> None:
        session = self.pick_session(pick)
        if session is None or not session.said_hello:
            return
        events, verdicts = session.send(hear=hear)
        for event, verdict in zip(events, verdicts, strict=False):
            assert verdict in {"applied", "superseded"}
            if isinstance(event, msg.FrameSaved) and verdict == "applied":
                assert (self.job, event.frame) not in self.applied
                self.applied.add((self.job, event.frame))
                row = self.site.row(frames, frames.c.job_id == self.job, frames.c.frame == event.frame)
                assert row["attempt_id"] == event.attempt
        if session.over or (session.desk.done and session.in_flight is None and not session.outbox):
            self.harness.engine.die(session.spec.id)

    @rule(pick=st.integers(0, 5))
    def dies(self, pick: int) -> None:
        session = self.pick_session(pick)
        if session is not None:
            self.harness.engine.die(session.spec.id)

    @rule(answers=st.booleans())
    def engine(self, answers: bool) -> None:
        self.harness.engine.answers = answers

    @rule(action=st.sampled_from(["hold", "unhold", "hold", "unhold", "cancel"]), drain=st.booleans())
    def person(self, action: str, drain: bool) -> None:
        body: dict[str, Any] = {"action": action}
        if action == "hold":
            body["drain"] = drain
        code = self.site.ask("PATCH", f"/api/jobs/{self.job}", json=body).status_code
        assert code in {200, 409}
        self.cancelled |= action == "cancel" and code == 200

    @invariant()
    def the_books_of_the_job_agree(self) -> None:
        state = self.site.row(job_state, job_state.c.job_id == self.job)
        rows = self.site.rows(tasks, tasks.c.job_id == self.job)
        numbers = Counter(t["status"] for t in rows)
        for status in ("pending", "running", "success", "failed", "preempted", "cancelled"):
            assert state[f"rows_{status}"] == numbers[status]
        assert state["frames_done"] == len(self.site.rows(frames, frames.c.job_id == self.job))
        live = {s["id"]: s for s in self.site.rows(sessions, sessions.c.job_id == self.job)}
        tries = {a["id"]: a for a in self.site.rows(attempts, attempts.c.job_id == self.job)}
        for task in rows:
            owner = tries.get(task["attempt_id"])
            if task["status"] == "running":
                assert owner is not None
                assert owner["outcome"] is None
                assert live[owner["session_id"]]["state"] not in {"lost", "ended"}
            elif owner is not None and owner["outcome"] is None:
                assert task["status"] == "pending"
                assert live[owner["session_id"]]["state"] == "lost"
        owners = {t["attempt_id"] for t in rows}
        for attempt in tries.values():
            assert attempt["outcome"] is not None or attempt["id"] in owners
            if attempt["outcome"] == "lost":
                assert attempt["cost_micros"] == 0
            if attempt["outcome"] is not None:
                assert attempt["billed_ms"] <= attempt["ended_ms"] - attempt["assigned_ms"]

    def teardown(self) -> None:
        if not hasattr(self, "job"):
            return
        self.site.ask("PATCH", f"/api/jobs/{self.job}", json={"action": "unhold"})
        status = self.harness.finish(self.job)
        done = sorted(f["frame"] for f in self.site.rows(frames, frames.c.job_id == self.job))
        assert status == ("cancelled" if self.cancelled else "success")
        if not self.cancelled:
            assert done == list(range(1, FRAMES + 1))
        self.the_books_of_the_job_agree()
        assert all(a["outcome"] is not None for a in self.site.rows(attempts, attempts.c.job_id == self.job))
        spent = sum(a["cost_micros"] for a in self.site.rows(attempts, attempts.c.job_id == self.job))
        assert self.site.get(f"/api/jobs/{self.job}")["cost"]["amount_micros"] == spent
        books_agree(self.site)
        for session_id in self.harness.engine.running:
            self.harness.engine.die(session_id)
        self.harness.turn()


def test_random_faults_lose_no_frame_and_commit_none_twice(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = count()
    monkeypatch.setattr(
        ids, "ULID", lambda: ULID.from_int(next(number))
    )  # so that an example can be repeated
    site.context.settings.node_failed_jobs = (
        1_000_000  # all examples share one node; test_nodes tests setting aside
    )
    run_state_machine_as_test(
        lambda: RandomFaults(site),
        settings=settings(
            max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
