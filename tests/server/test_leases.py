"""Silent sessions: other sessions may take their tasks, and they keep the tasks that no other took."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from dispatch_harness import LEASE_MS, DispatchHarness
from fake_engine import ManualDispatcher
from test_billing import books_agree

from framefarm.protocol import node as msg
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.jobs.tables import job_state, tasks
from framefarm.server.sessions.tables import attempts, frames, leases


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
