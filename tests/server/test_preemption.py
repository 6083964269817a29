"""Preemption for on-demand work; pauses of tasks, shares of jobs, and reasons for waiting."""

from __future__ import annotations

from typing import Any

import pytest
from api_client import ApiClient
from dispatch_harness import DispatchHarness
from test_billing import books_agree

from framefarm.protocol import node as msg
from framefarm.server.jobs.tables import tasks
from framefarm.server.sessions.tables import attempts, frames, sessions

GRACE_MS = 30_000


@pytest.fixture
def harness(site: ApiClient) -> DispatchHarness:
    return DispatchHarness(site, cores=1)


def spot(harness: DispatchHarness, **more: Any) -> str:
    return str(harness.site.submit(frame_range="1-4", chunk_size=4, preemptible=True, **more)["id"])


def on_demand(harness: DispatchHarness, **more: Any) -> str:
    return str(harness.site.submit(frame_range="1", preemptible=False, job_title="Rush", **more)["id"])


def test_preempted_session_gives_way_and_loses_only_its_frame_in_work(harness: DispatchHarness) -> None:
    job = spot(harness)
    (one,) = harness.start(1)
    one.outbox.clear()
    first = one.render()
    harness.clock.now_ms += 7000
    one.send()
    rush = on_demand(harness)
    harness.turn()
    one.sync()
    assert one.desk.preempted
    harness.clock.now_ms += 500
    while one.render():
        pass
    one.send()
    ended = harness.site.row(attempts, attempts.c.session_id == one.spec.id)
    assert (ended["outcome"], ended["frames_done"]) == ("preempted", 1)
    assert ended["billed_ms"] == 0  # begun and saved at the same moment of its clock
    harness.engine.die(one.spec.id)
    harness.turn()
    (other,) = harness.alive()
    assert harness.session(other)["job_id"] == rush
    row = harness.site.row(tasks, tasks.c.job_id == job)
    assert (row["status"], row["preemptions"]) == ("pending", 0)
    assert harness.finish(rush) == "success"
    assert harness.finish(job) == "success"
    done = harness.site.rows(frames, frames.c.job_id == job)
    assert sorted(f["frame"] for f in done) == [1, 2, 3, 4]
    assert {f["attempt_id"] for f in done if f["frame"] == first} == {ended["id"]}
    books_agree(harness.site)


def test_preempted_session_that_stays_is_stopped_at_the_deadline_and_billed_to_its_last_frame(
    harness: DispatchHarness,
) -> None:
    job = spot(harness)
    (one,) = harness.start(1)
    one.render()
    harness.clock.now_ms += 4000
    one.render()
    one.send()
    on_demand(harness)
    harness.turn()
    harness.clock.now_ms += GRACE_MS - 1
    one.sync()
    harness.turn()
    assert harness.engine.stopped == []
    harness.clock.now_ms += 1
    harness.turn()
    assert harness.engine.stopped == [one.spec.id]
    harness.turn()
    ended = harness.site.row(attempts, attempts.c.session_id == one.spec.id)
    assert (ended["outcome"], ended["cause"], ended["billed_ms"]) == ("preempted", "preempted", 4000)
    assert harness.site.row(tasks, tasks.c.job_id == job)["status"] == "pending"


def test_without_retries_a_preempted_task_says_so_and_keeps_its_frames(harness: DispatchHarness) -> None:
    job = spot(harness, preemptible_retries=0)
    (one,) = harness.start(1)
    one.render()
    one.send()
    rush = on_demand(harness)
    harness.turn()
    one.sync()
    one.send()
    harness.engine.die(one.spec.id)
    assert harness.finish(rush) == "success"
    seen = harness.site.get(f"/api/jobs/{job}")
    assert (seen["status"], seen["cause"]) == ("failed", "preempted")
    assert "preemptible_retries (0) are used up" in seen["message"]
    assert seen["tasks"]["preempted"] == 1
    assert seen["frames"]["done"] == 1
    assert harness.site.ask("POST", f"/api/jobs/{job}/retry", json={}).status_code == 200
    assert harness.finish(job) == "success"


def test_preemption_without_a_saved_frame_spends_a_retry(harness: DispatchHarness) -> None:
    job = spot(harness, preemptible_retries=1)
    for spent in (1, 2):
        (one,) = harness.start(1)
        one.desk.begin_without_frame(one.now_ms())
        rush = on_demand(harness)
        harness.turn()
        one.sync()
        one.send()
        harness.engine.die(one.spec.id)
        row = harness.site.row(tasks, tasks.c.job_id == job)
        assert (row["preemptions"], row["failures"], row["losses"]) == (spent, 0, 0)
        harness.site.ask("PATCH", f"/api/jobs/{rush}", json={"action": "cancel"})
        for session_id in harness.engine.running:
            harness.engine.die(session_id)
        harness.turn()
    assert harness.site.row(tasks, tasks.c.job_id == job)["status"] == "preempted"


def test_a_job_says_what_it_waits_for_and_names_no_other_account(
    harness: DispatchHarness, other: ApiClient
) -> None:
    first = harness.site.submit(frame_range="1-4", job_title="Rush", preemptible=False)
    harness.start(1)
    mine = harness.site.submit(frame_range="1", job_title="Late", preemptible=False)["id"]
    theirs = other.submit(frame_range="1", preemptible=False)["id"]
    harness.turn()
    kind = harness.site.instance
    seen = harness.site.get(f"/api/jobs/{mine}")["waiting_for"]
    assert seen == f"a {kind} machine: 1 of 1 are taken by “Rush”"
    listed = {j["id"]: j["waiting_for"] for j in harness.site.get("/api/jobs")["data"]}
    assert listed[mine] == seen
    assert other.get(f"/api/jobs/{theirs}")["waiting_for"] == (
        f"a {kind} machine: 1 of 1 are taken by other work"
    )
    (task,) = harness.site.get(f"/api/jobs/{mine}/tasks")["data"]
    assert task["waiting_for"] == f"a free {kind} machine"
    assert first["id"] != mine


def test_a_task_behind_the_scouts_says_so(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1-3", scout_frames="1")["id"]
    scout, behind, _ = harness.site.get(f"/api/jobs/{job}/tasks")["data"]
    assert behind["waiting_for"] == "the scouts, which are rendered first"
    assert scout["waiting_for"] is not None


def test_a_paused_task_wants_no_machine_until_it_is_due_and_says_so(harness: DispatchHarness) -> None:
    job = harness.site.submit(frame_range="1")["id"]
    (one,) = harness.start(1)
    one.render()
    one.outbox.clear()
    one.desk.tasks.clear()
    (attempt,) = harness.site.rows(attempts)

    one.outbox.append(
        msg.TaskEnded(
            attempt=attempt["id"], outcome="failed", started_ms=0, ended_ms=0, cause="fake", message="No."
        )
    )
    one.send()
    harness.engine.die(one.spec.id)
    pause = harness.dispatcher.turn()
    assert harness.engine.running == []
    assert 0 < pause <= 1
    (task,) = harness.site.get(f"/api/jobs/{job}/tasks")["data"]
    assert task["waiting_for"] == "the end of a pause after it failed, 1 s"
    harness.clock.now_ms += 1000
    harness.turn()
    assert len(harness.engine.running) == 1
    assert harness.finish(job) == "success"


def test_a_small_job_gets_its_turn_after_a_big_ones_tenure(harness: DispatchHarness) -> None:
    big = harness.site.submit(frame_range="1-900", job_title="Big")["id"]
    (one,) = harness.start(1)
    small = harness.site.submit(frame_range="1")["id"]
    harness.call(one, seconds=290)
    assert not harness.session(one)["drain"]
    harness.call(one, seconds=10)
    assert harness.session(one)["drain"]
    while one.render():
        pass
    one.sync()
    one.send()
    harness.engine.die(one.spec.id)
    harness.turn()
    harness.turn()
    (other,) = harness.alive()
    assert harness.session(other)["job_id"] == small
    assert harness.site.rows(sessions, sessions.c.job_id == big)
