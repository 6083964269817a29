"""On-demand work takes the slots of preemptible sessions; pauses, shares, and why something waits."""

from __future__ import annotations

from typing import Any

import pytest
from api_client import ApiClient
from test_billing import books_agree
from test_leases import DispatchHarness

from framefarm.protocol import node as msg
from framefarm.server.jobs.tables import tasks
from framefarm.server.sessions.tables import attempts, frames, sessions

GRACE_MS = 30_000


@pytest.fixture
def bench(site: ApiClient) -> DispatchHarness:
    return DispatchHarness(site, cores=1)


def spot(bench: DispatchHarness, **more: Any) -> str:
    return str(bench.site.submit(frame_range="1-4", chunk_size=4, preemptible=True, **more)["id"])


def on_demand(bench: DispatchHarness, **more: Any) -> str:
    return str(bench.site.submit(frame_range="1", preemptible=False, job_title="Rush", **more)["id"])


def test_preempted_session_gives_way_and_loses_only_its_frame_in_work(bench: DispatchHarness) -> None:
    job = spot(bench)
    (one,) = bench.start(1)
    one.outbox.clear()
    first = one.render()
    bench.clock.now_ms += 7000
    one.send()
    rush = on_demand(bench)
    bench.turn()
    one.sync()
    assert one.desk.preempted
    bench.clock.now_ms += 500
    while one.render():
        pass
    one.send()
    ended = bench.site.row(attempts, attempts.c.session_id == one.spec.id)
    assert (ended["outcome"], ended["frames_done"]) == ("preempted", 1)
    assert ended["billed_ms"] == 0  # begun and saved at the same moment of its clock
    bench.engine.die(one.spec.id)
    bench.turn()
    (other,) = bench.alive()
    assert bench.session(other)["job_id"] == rush
    row = bench.site.row(tasks, tasks.c.job_id == job)
    assert (row["status"], row["preemptions"]) == ("pending", 0)
    assert bench.finish(rush) == "success"
    assert bench.finish(job) == "success"
    done = bench.site.rows(frames, frames.c.job_id == job)
    assert sorted(f["frame"] for f in done) == [1, 2, 3, 4]
    assert {f["attempt_id"] for f in done if f["frame"] == first} == {ended["id"]}
    books_agree(bench.site)


def test_one_that_does_not_give_way_is_stopped_at_the_deadline_and_billed_to_its_last_frame(
    bench: DispatchHarness,
) -> None:
    job = spot(bench)
    (one,) = bench.start(1)
    one.render()
    bench.clock.now_ms += 4000
    one.render()
    one.send()
    on_demand(bench)
    bench.turn()
    bench.clock.now_ms += GRACE_MS - 1
    one.sync()
    bench.turn()
    assert bench.engine.stopped == []
    bench.clock.now_ms += 1
    bench.turn()
    assert bench.engine.stopped == [one.spec.id]
    bench.turn()
    ended = bench.site.row(attempts, attempts.c.session_id == one.spec.id)
    assert (ended["outcome"], ended["cause"], ended["billed_ms"]) == ("preempted", "preempted", 4000)
    assert bench.site.row(tasks, tasks.c.job_id == job)["status"] == "pending"


def test_without_retries_a_preempted_task_says_so_and_keeps_its_frames(bench: DispatchHarness) -> None:
    job = spot(bench, preemptible_retries=0)
    (one,) = bench.start(1)
    one.render()
    one.send()
    rush = on_demand(bench)
    bench.turn()
    one.sync()
    one.send()
    bench.engine.die(one.spec.id)
    assert bench.finish(rush) == "success"
    seen = bench.site.get(f"/api/jobs/{job}")
    assert (seen["status"], seen["cause"]) == ("failed", "preempted")
    assert "preemptible_retries (0) are used up" in seen["message"]
    assert seen["tasks"]["preempted"] == 1
    assert seen["frames"]["done"] == 1
    assert bench.site.ask("POST", f"/api/jobs/{job}/retry", json={}).status_code == 200
    assert bench.finish(job) == "success"


def test_a_preemption_that_saved_nothing_spends_a_retry(bench: DispatchHarness) -> None:
    job = spot(bench, preemptible_retries=1)
    for spent in (1, 2):
        (one,) = bench.start(1)
        one.desk.begin_without_frame(one.now_ms())
        rush = on_demand(bench)
        bench.turn()
        one.sync()
        one.send()
        bench.engine.die(one.spec.id)
        row = bench.site.row(tasks, tasks.c.job_id == job)
        assert (row["preemptions"], row["failures"], row["losses"]) == (spent, 0, 0)
        bench.site.ask("PATCH", f"/api/jobs/{rush}", json={"action": "cancel"})
        for session_id in bench.engine.running:
            bench.engine.die(session_id)
        bench.turn()
    assert bench.site.row(tasks, tasks.c.job_id == job)["status"] == "preempted"


def test_a_job_says_what_it_waits_for_and_names_no_other_account(
    bench: DispatchHarness, other: ApiClient
) -> None:
    first = bench.site.submit(frame_range="1-4", job_title="Rush", preemptible=False)
    bench.start(1)
    mine = bench.site.submit(frame_range="1", job_title="Late", preemptible=False)["id"]
    theirs = other.submit(frame_range="1", preemptible=False)["id"]
    bench.turn()
    kind = bench.site.instance
    seen = bench.site.get(f"/api/jobs/{mine}")["waiting_for"]
    assert seen == f"a {kind} machine: 1 of 1 are taken by “Rush”"
    listed = {j["id"]: j["waiting_for"] for j in bench.site.get("/api/jobs")["data"]}
    assert listed[mine] == seen
    assert other.get(f"/api/jobs/{theirs}")["waiting_for"] == (
        f"a {kind} machine: 1 of 1 are taken by other work"
    )
    (task,) = bench.site.get(f"/api/jobs/{mine}/tasks")["data"]
    assert task["waiting_for"] == f"a free {kind} machine"
    assert first["id"] != mine


def test_a_task_behind_the_scouts_says_so(bench: DispatchHarness) -> None:
    job = bench.site.submit(frame_range="1-3", scout_frames="1")["id"]
    scout, behind, _ = bench.site.get(f"/api/jobs/{job}/tasks")["data"]
    assert behind["waiting_for"] == "the scouts, which are rendered first"
    assert scout["waiting_for"] is not None


def test_a_paused_task_wants_no_machine_until_it_is_due_and_says_so(bench: DispatchHarness) -> None:
    job = bench.site.submit(frame_range="1")["id"]
    (one,) = bench.start(1)
    one.render()
    one.outbox.clear()
    one.desk.tasks.clear()
    (attempt,) = bench.site.rows(attempts)

    one.outbox.append(
        msg.TaskEnded(
            attempt=attempt["id"], outcome="failed", started_ms=0, ended_ms=0, cause="fake", message="No."
        )
    )
    one.send()
    bench.engine.die(one.spec.id)
    pause = bench.dispatcher.turn()
    assert bench.engine.running == []
    assert 0 < pause <= 1
    (task,) = bench.site.get(f"/api/jobs/{job}/tasks")["data"]
    assert task["waiting_for"] == "the end of a pause after it failed, 1 s"
    bench.clock.now_ms += 1000
    bench.turn()
    assert len(bench.engine.running) == 1
    assert bench.finish(job) == "success"


def test_a_small_job_gets_its_turn_after_a_big_ones_tenure(bench: DispatchHarness) -> None:
    big = bench.site.submit(frame_range="1-900", job_title="Big")["id"]
    (one,) = bench.start(1)
    small = bench.site.submit(frame_range="1")["id"]
    bench.call(one, seconds=290)
    assert not bench.session(one)["drain"]
    bench.call(one, seconds=10)
    assert bench.session(one)["drain"]
    while one.render():
        pass
    one.sync()
    one.send()
    bench.engine.die(one.spec.id)
    bench.turn()
    bench.turn()
    (other,) = bench.alive()
    assert bench.session(other)["job_id"] == small
    assert bench.site.rows(sessions, sessions.c.job_id == big)
