"""Silent sessions: other sessions may take their tasks, and they keep the tasks that no other took."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from fake_engine import FakeEngine, ManualDispatcher
from fake_session import FakeSession
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from test_billing import FakeClock, books_agree
from ulid import ULID

from framefarm.protocol import node as msg
from framefarm.server import ids
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.jobs.tables import job_state, tasks
from framefarm.server.sessions.tables import attempts, frames, leases, sessions

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


@pytest.fixture
def harness(site: ApiClient) -> DispatchHarness:
    return DispatchHarness(site)


def test_frozen_session_resumes_and_commits_unclaimed_tasks(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    (session,) = harness.start(1)
    harness.engine.cores = 1  # no room for another
    session.render()
    session.send()
    session.render()
    harness.silence(30)
    assert harness.session(session)["state"] == "lost"
    assert harness.site.row(tasks)["status"] == "pending"
    assert harness.outcomes(session) == [None]
    events, verdicts = session.send()
    assert [type(e).__name__ for e in events] == ["FrameSaved"]
    assert verdicts == ["applied"]
    assert harness.session(session)["state"] == "rendering"
    while session.render():
        pass
    session.send()
    harness.site.publish()
    assert harness.site.status(job) == "success"
    assert harness.outcomes(session) == ["success"]
    assert harness.site.row(attempts)["billed_ms"] == 30_000
    assert harness.engine.stopped == []
    books_agree(harness.site)


def test_reclaimed_task_is_superseded_and_the_others_stay_with_the_session(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    session, second = harness.start(2)
    (mine,) = session.desk.tasks
    session.render()
    harness.call(second, seconds=30)
    assert harness.session(session)["state"] == "lost"
    while second.render():
        pass
    second.send()  # ends its own task, and takes over the other
    assert harness.outcomes(session) == ["lost"]
    assert harness.site.row(attempts, attempts.c.id == mine)["cost_micros"] == 0
    session.send()
    assert session.over  # it owns no task any more: 410
    while second.render():
        pass
    second.send()
    assert sorted(f["frame"] for f in harness.site.rows(frames)) == [1, 2, 3, 4]
    assert {f["attempt_id"] for f in harness.site.rows(frames)}.isdisjoint({mine})


def test_a_late_report_of_two_tasks_gets_a_verdict_for_each(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3")["id"]
    harness.engine.cores = 1
    (session,) = harness.start(1)
    session.render()
    session.send()
    first, second = session.desk.tasks
    slow = sa.update(job_state).values(frame_ms=600_000)  # so that tasks go out one by one
    harness.site.context.db.write_now(lambda tx: tx.conn.execute(slow))
    harness.silence(30)
    harness.engine.cores = 2
    harness.turn()
    (other,) = [s for s in harness.alive() if s is not session]
    other.hello()
    other.sync()
    taken = harness.site.row(attempts, attempts.c.id == first)["outcome"]
    assert taken == "lost"
    assert harness.site.row(attempts, attempts.c.id == second)["outcome"] is None
    session.render()
    session.render()
    events, verdicts = session.send()
    named = {e.attempt: v for e, v in zip(events, verdicts, strict=True) if isinstance(e, msg.FrameSaved)}
    assert named[first] == "superseded"
    assert named[second] == "applied"
    assert harness.session(session)["state"] in {"rendering", "idle"}
    assert harness.finish(job) == "success"


def test_lost_session_without_tasks_is_stopped_and_frees_its_slot_when_it_has_ended(
    harness: DispatchHarness,
) -> None:
    harness.site.submit(frame_range="1-40", chunk_size=40)
    session = harness.start(1)[0]
    harness.silence(30)
    other = next(s for s in harness.alive() if s is not session)
    other.hello()
    other.sync()
    assert harness.outcomes(session) == ["lost"]
    harness.turn()
    assert harness.engine.stopped == [session.spec.id]
    harness.turn()
    assert harness.session(session)["state"] == "ended"


def test_a_lost_session_with_a_task_is_given_up_only_after_its_disconnected_budget(
    harness: DispatchHarness,
) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    harness.engine.cores = 1
    (session,) = harness.start(1)
    session.render()
    session.send()
    harness.silence(20 + 60)
    assert harness.engine.stopped == []
    assert harness.outcomes(session) == [None]
    harness.silence(10)
    assert harness.outcomes(session) == ["lost"]
    assert harness.engine.stopped == [session.spec.id]
    assert harness.finish(job) == "success"
    assert sorted(f["frame"] for f in harness.site.rows(frames)) == [1, 2, 3]


def test_engine_not_answering_loses_nobody(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    session, second = harness.start(2)
    harness.engine.answers = False
    harness.call(session, second, seconds=90)
    assert {harness.session(s)["state"] for s in (session, second)} == {"rendering"}
    assert harness.engine.stopped == []


def test_cancel_of_a_lost_sessions_job_ends_it_at_once(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    harness.engine.cores = 1
    (session,) = harness.start(1)
    session.render()
    harness.silence(30)
    assert harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"}).status_code == 200
    assert harness.site.status(job) == "cancelled"
    assert harness.outcomes(session) == ["lost"]
    session.send()
    assert session.over
    assert harness.site.rows(frames) == []
    books_agree(harness.site)


def test_a_cancelled_job_does_not_wait_for_a_silent_session(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    (session,) = harness.start(1)
    session.render()
    session.send()
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    assert harness.site.status(job) == "cancelling"
    harness.silence(30)
    harness.site.publish()
    assert harness.site.status(job) == "cancelled"


def test_a_held_job_takes_a_late_frame_and_no_more(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    harness.engine.cores = 1
    (session,) = harness.start(1)
    session.render()
    harness.silence(30)
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "hold"})
    assert harness.site.status(job) == "holding"
    _, verdicts = session.send()
    assert verdicts[-1] == "applied"
    assert session.render() is None
    session.send()
    assert harness.outcomes(session) == ["cancelled"]
    assert harness.site.status(job) == "holding"
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "unhold"})
    assert harness.finish(job) == "success"
    assert Counter(f["frame"] for f in harness.site.rows(frames)) == {1: 1, 2: 1, 3: 1}


def test_a_new_leader_grants_every_session_a_full_lease(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    (session, _two) = harness.start(2)
    harness.clock.now_ms += 60_000
    second = ManualDispatcher(harness.site.context, harness.engine, harness.site.loop)
    second.turn()
    assert harness.session(session)["state"] == "rendering"
    lease = harness.site.row(leases, leases.c.session_id == session.spec.id)
    assert lease["expires_ms"] == harness.clock.now_ms + LEASE_MS
    with pytest.raises(NotLeader):
        harness.dispatcher.turn()


def test_a_gap_between_ticks_grants_every_session_a_full_lease(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    (session, _two) = harness.start(2)
    harness.clock.now_ms += LEASE_MS * 2
    harness.turn()
    assert harness.session(session)["state"] == "rendering"


def test_former_leader_cannot_record_that_a_session_did_not_start(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1")
    harness.turn()
    (session,) = harness.sessions.values()
    ManualDispatcher(harness.site.context, harness.engine, harness.site.loop)
    with pytest.raises(NotLeader):
        harness.site.context.db.write_now(harness.dispatcher._not_started, session.spec.id, "no room")
    assert harness.session(session)["state"] == "starting"


def test_machine_not_starting_is_given_up_and_a_late_hello_ends_it(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1")
    harness.turn()
    (session,) = harness.sessions.values()
    harness.silence(130)
    assert harness.session(session)["end_reason"] == "not_started"
    session.hello()
    assert session.over


def test_session_that_fetches_its_inputs_has_until_the_starting_deadline(
    harness: DispatchHarness,
) -> None:
    harness.site.submit(frame_range="1")
    harness.turn()
    (session,) = harness.sessions.values()
    session.hello()
    harness.silence(60)
    assert harness.session(session)["state"] == "ready"
    session.sync()
    assert harness.session(session)["state"] == "rendering"


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
