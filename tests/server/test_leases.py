"""A session that falls silent: its tasks may go to others, and it keeps those that nobody took."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from fake_engine import FakeEngine, Turned
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
    """A farm with a fake engine, its clock and its dispatcher turned by hand."""

    def __init__(self, site: ApiClient, cores: int = 2) -> None:
        self.site = site
        site.context.settings = site.context.settings.model_copy(update={"lease_seconds": LEASE_MS / 1000})
        self.clock = FakeClock(site)
        self.engine = FakeEngine(cores)
        self.dispatcher = Turned(site.context, self.engine, site.loop)
        self.sessions: dict[str, FakeSession] = {}

    def turn(self) -> None:
        self.dispatcher.turn()
        for session_id, spec in self.engine.started.items():
            if session_id not in self.sessions:
                self.sessions[session_id] = FakeSession(self.site.context, spec)

    def silence(self, seconds: int) -> None:
        """Time passes, the leader watches, and no runner calls."""
        for _ in range(seconds * 1000 // TICK_MS):
            self.clock.now_ms += TICK_MS
            self.turn()

    def call(self, *callers: FakeSession, seconds: int) -> None:
        """Time passes, and only these call."""
        for _ in range(seconds * 1000 // TICK_MS):
            self.clock.now_ms += TICK_MS
            for one in callers:
                one.sync()
            self.turn()

    def alive(self) -> list[FakeSession]:
        return [s for s in self.sessions.values() if s.spec.id in self.engine.running]

    def start(self, count: int = 1) -> list[FakeSession]:
        """That many machines with tasks in hand."""
        self.turn()
        found = self.alive()[:count]
        for one in found:
            one.hello()
            one.sync()
        assert len(found) == count
        return found

    def session(self, one: FakeSession) -> Any:
        return self.site.row(sessions, sessions.c.id == one.spec.id)

    def outcomes(self, one: FakeSession) -> list[str | None]:
        rows = self.site.rows(attempts, attempts.c.session_id == one.spec.id)
        return [a["outcome"] for a in sorted(rows, key=lambda a: a["id"])]

    def finish(self, job: str) -> str:
        """Everything works again: the job's end."""
        self.engine.answers = True
        for _ in range(100):
            self.turn()
            for one in self.alive():
                if not one.said_hello:
                    one.hello()
                for _ in range(30):
                    one.sync()
                    while not one.over and one.render() is not None:
                        pass
                    one.send()
                    if one.over or not (one.desk.tasks or one.outbox):
                        break
                if one.over or one.desk.done:
                    self.engine.die(one.spec.id)
            self.clock.now_ms += 1000
            self.site.publish()
            status = self.site.status(job)
            if status in {"success", "failed", "cancelled"}:
                return status
        raise AssertionError(f"the job is {status} and goes nowhere")


@pytest.fixture
def harness(site: ApiClient) -> DispatchHarness:
    return DispatchHarness(site)


def test_a_frozen_session_comes_back_and_commits_what_nobody_took(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    (one,) = harness.start(1)
    harness.engine.cores = 1  # no room for another
    one.render()
    one.send()
    one.render()
    harness.silence(30)
    assert harness.session(one)["state"] == "lost"
    assert harness.site.row(tasks)["status"] == "pending"
    assert harness.outcomes(one) == [None]
    events, verdicts = one.send()
    assert [type(e).__name__ for e in events] == ["FrameSaved"]
    assert verdicts == ["applied"]
    assert harness.session(one)["state"] == "rendering"
    while one.render():
        pass
    one.send()
    harness.site.publish()
    assert harness.site.status(job) == "success"
    assert harness.outcomes(one) == ["success"]
    assert harness.site.row(attempts)["billed_ms"] == 30_000
    assert harness.engine.stopped == []
    books_agree(harness.site)


def test_what_others_took_is_superseded_and_the_rest_is_its_own(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    one, two = harness.start(2)
    (mine,) = one.desk.tasks
    one.render()
    harness.call(two, seconds=30)
    assert harness.session(one)["state"] == "lost"
    while two.render():
        pass
    two.send()  # ends its own task, and takes over the other
    assert harness.outcomes(one) == ["lost"]
    assert harness.site.row(attempts, attempts.c.id == mine)["cost_micros"] == 0
    one.send()
    assert one.over  # nothing is its own any more: 410
    while two.render():
        pass
    two.send()
    assert sorted(f["frame"] for f in harness.site.rows(frames)) == [1, 2, 3, 4]
    assert {f["attempt_id"] for f in harness.site.rows(frames)}.isdisjoint({mine})


def test_a_late_report_of_two_tasks_gets_a_verdict_for_each(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3")["id"]
    harness.engine.cores = 1
    (one,) = harness.start(1)
    one.render()
    one.send()
    first, second = one.desk.tasks
    slow = sa.update(job_state).values(frame_ms=600_000)  # so that tasks go out one by one
    harness.site.context.db.write_now(lambda tx: tx.conn.execute(slow))
    harness.silence(30)
    harness.engine.cores = 2
    harness.turn()
    (other,) = [s for s in harness.alive() if s is not one]
    other.hello()
    other.sync()
    taken = harness.site.row(attempts, attempts.c.id == first)["outcome"]
    assert taken == "lost"
    assert harness.site.row(attempts, attempts.c.id == second)["outcome"] is None
    one.render()
    one.render()
    events, verdicts = one.send()
    named = {e.attempt: v for e, v in zip(events, verdicts, strict=True) if isinstance(e, msg.FrameSaved)}
    assert named[first] == "superseded"
    assert named[second] == "applied"
    assert harness.session(one)["state"] in {"rendering", "idle"}
    assert harness.finish(job) == "success"


def test_a_lost_session_that_owns_nothing_is_stopped_and_its_slot_is_free_when_it_is_gone(
    harness: DispatchHarness,
) -> None:
    harness.site.submit(frame_range="1-40", chunk_size=40)
    one = harness.start(1)[0]
    harness.silence(30)
    other = next(s for s in harness.alive() if s is not one)
    other.hello()
    other.sync()
    assert harness.outcomes(one) == ["lost"]
    harness.turn()
    assert harness.engine.stopped == [one.spec.id]
    harness.turn()
    assert harness.session(one)["state"] == "ended"


def test_a_lost_session_with_a_task_is_given_up_only_after_its_disconnected_budget(
    harness: DispatchHarness,
) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    harness.engine.cores = 1
    (one,) = harness.start(1)
    one.render()
    one.send()
    harness.silence(20 + 60)
    assert harness.engine.stopped == []
    assert harness.outcomes(one) == [None]
    harness.silence(10)
    assert harness.outcomes(one) == ["lost"]
    assert harness.engine.stopped == [one.spec.id]
    assert harness.finish(job) == "success"
    assert sorted(f["frame"] for f in harness.site.rows(frames)) == [1, 2, 3]


def test_engine_not_answering_loses_nobody(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    one, two = harness.start(2)
    harness.engine.answers = False
    harness.call(one, two, seconds=90)
    assert {harness.session(s)["state"] for s in (one, two)} == {"rendering"}
    assert harness.engine.stopped == []


def test_cancel_of_a_lost_sessions_job_ends_it_at_once(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    harness.engine.cores = 1
    (one,) = harness.start(1)
    one.render()
    harness.silence(30)
    assert harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"}).status_code == 200
    assert harness.site.status(job) == "cancelled"
    assert harness.outcomes(one) == ["lost"]
    one.send()
    assert one.over
    assert harness.site.rows(frames) == []
    books_agree(harness.site)


def test_a_cancelled_job_does_not_wait_for_a_silent_session(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    (one,) = harness.start(1)
    one.render()
    one.send()
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    assert harness.site.status(job) == "cancelling"
    harness.silence(30)
    harness.site.publish()
    assert harness.site.status(job) == "cancelled"


def test_a_held_job_takes_a_late_frame_and_no_more(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", chunk_size=3)["id"]
    harness.engine.cores = 1
    (one,) = harness.start(1)
    one.render()
    harness.silence(30)
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "hold"})
    assert harness.site.status(job) == "holding"
    _, verdicts = one.send()
    assert verdicts[-1] == "applied"
    assert one.render() is None
    one.send()
    assert harness.outcomes(one) == ["cancelled"]
    assert harness.site.status(job) == "holding"
    harness.site.ask("PATCH", f"/api/jobs/{job}", json={"action": "unhold"})
    assert harness.finish(job) == "success"
    assert Counter(f["frame"] for f in harness.site.rows(frames)) == {1: 1, 2: 1, 3: 1}


def test_a_new_leader_grants_every_session_a_full_lease(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    (one, _two) = harness.start(2)
    harness.clock.now_ms += 60_000
    second = Turned(harness.site.context, harness.engine, harness.site.loop)
    second.turn()
    assert harness.session(one)["state"] == "rendering"
    lease = harness.site.row(leases, leases.c.session_id == one.spec.id)
    assert lease["expires_ms"] == harness.clock.now_ms + LEASE_MS
    with pytest.raises(NotLeader):
        harness.dispatcher.turn()


def test_a_gap_between_ticks_grants_every_session_a_full_lease(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1-4", chunk_size=2)
    (one, _two) = harness.start(2)
    harness.clock.now_ms += LEASE_MS * 2
    harness.turn()
    assert harness.session(one)["state"] == "rendering"


def test_an_old_leader_may_not_even_say_that_a_session_did_not_start(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1")
    harness.turn()
    (one,) = harness.sessions.values()
    Turned(harness.site.context, harness.engine, harness.site.loop)
    with pytest.raises(NotLeader):
        harness.site.context.db.write_now(harness.dispatcher._not_started, one.spec.id, "no room")
    assert harness.session(one)["state"] == "starting"


def test_machine_not_starting_is_given_up_and_a_late_hello_ends_it(harness: DispatchHarness) -> None:
    harness.site.submit(frame_range="1")
    harness.turn()
    (one,) = harness.sessions.values()
    harness.silence(130)
    assert harness.session(one)["end_reason"] == "not_started"
    one.hello()
    assert one.over


def test_a_session_that_still_lays_out_its_inputs_has_until_the_starting_deadline(
    harness: DispatchHarness,
) -> None:
    harness.site.submit(frame_range="1")
    harness.turn()
    (one,) = harness.sessions.values()
    one.hello()
    harness.silence(60)
    assert harness.session(one)["state"] == "ready"
    one.sync()
    assert harness.session(one)["state"] == "rendering"


FRAMES = 10


class Nights(RuleBasedStateMachine):
    """Machines that freeze, die, lose answers and come late, in any order, over one job."""

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

    def one(self, pick: int) -> FakeSession | None:
        alive = [s for s in self.harness.alive() if not s.over]
        return alive[pick % len(alive)] if alive else None

    def may_be_stopped(self, session_id: str) -> None:
        """No runner is killed that owns something, unless it said itself that it is over, or the farm has
        given it up long after its lease."""
        own = sa.and_(attempts.c.session_id == session_id, attempts.c.outcome.is_(None))
        owned = [
            a
            for a in self.site.rows(attempts, own)
            if self.site.rows(tasks, tasks.c.attempt_id == a["id"], tasks.c.job_id == a["job_id"])
        ]
        assert owned == []

    @rule(calling=st.integers(0, 7), ticks=st.integers(1, 4))
    def time_passes(self, calling: int, ticks: int) -> None:
        """And only some of the machines call: the others are frozen."""
        awake = [s for n, s in enumerate(self.harness.sessions.values()) if calling >> (n % 3) & 1]
        for _ in range(ticks):
            for one in awake:
                self.call(one)
            self.harness.silence(10)

    def call(self, one: FakeSession) -> None:
        if one.over or one.spec.id not in self.harness.engine.running:
            return
        if not one.said_hello:
            one.hello()
        one.sync()

    @rule(pick=st.integers(0, 5))
    def calls(self, pick: int) -> None:
        one = self.one(pick)
        if one is not None:
            self.call(one)

    @rule(pick=st.integers(0, 5), count=st.integers(1, 3))
    def renders(self, pick: int, count: int) -> None:
        one = self.one(pick)
        if one is None or not one.said_hello:
            return
        for _ in range(count):
            row = self.harness.session(one)
            connected = row["state"] != "lost" and row["version"] == one.desk.version
            self.harness.clock.now_ms += 20
            done = {f["frame"] for f in self.site.rows(frames, frames.c.job_id == self.job)}
            frame = one.render()
            assert frame is None or not connected or frame not in done

    @rule(pick=st.integers(0, 5))
    def fails(self, pick: int) -> None:
        one = self.one(pick)
        if one is not None:
            one.fail()

    @rule(pick=st.integers(0, 5), hear=st.booleans())
    def reports(self, pick: int, hear: bool) -> None:
        one = self.one(pick)
        if one is None or not one.said_hello:
            return
        events, verdicts = one.send(hear=hear)
        for event, verdict in zip(events, verdicts, strict=False):
            assert verdict in {"applied", "superseded"}
            if isinstance(event, msg.FrameSaved) and verdict == "applied":
                assert (self.job, event.frame) not in self.applied
                self.applied.add((self.job, event.frame))
                row = self.site.row(frames, frames.c.job_id == self.job, frames.c.frame == event.frame)
                assert row["attempt_id"] == event.attempt
        if one.over or (one.desk.done and one.in_flight is None and not one.outbox):
            self.harness.engine.die(one.spec.id)

    @rule(pick=st.integers(0, 5))
    def dies(self, pick: int) -> None:
        one = self.one(pick)
        if one is not None:
            self.harness.engine.die(one.spec.id)

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


def test_whatever_the_night_brings_no_frame_is_lost_or_done_twice(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = count()
    monkeypatch.setattr(ids, "ULID", lambda: ULID.from_int(next(number)))  # so that a night can be repeated
    site.context.settings.node_failed_jobs = (
        1_000_000  # all nights share one machine; test_nodes sets it aside
    )
    run_state_machine_as_test(
        lambda: Nights(site),
        settings=settings(
            max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
