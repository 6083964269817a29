"""Wrangler rules: each acts once, gives its reason, and keeps the ledger and the counts right."""

from __future__ import annotations

from typing import Any

import pytest
from api_client import ApiClient
from fake_engine import FakeEngine, ManualDispatcher
from test_billing import FakeClock

from framefarm.server.accounts.tables import audit
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.jobs.tables import events, job_state, tasks
from framefarm.server.sessions import expiry
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.wrangler import rule_engine
from framefarm.server.wrangler.tables import wrangler_actions


@pytest.fixture
def clock(site: ApiClient) -> FakeClock:
    return FakeClock(site)


@pytest.fixture
def leader(site: ApiClient, clock: FakeClock) -> ManualDispatcher:
    return ManualDispatcher(site.context, FakeEngine(8), site.loop)


def add(site: ApiClient, **body: Any) -> str:
    answer = site.ask("POST", "/api/wrangler/rules", json=body)
    assert answer.status_code == 201, answer.text
    name: str = answer.json()["id"]
    return name


def apply_rules(site: ApiClient, leader: ManualDispatcher) -> int:
    """Number of actions of one pass."""
    return site.loop.run(rule_engine.run_pass(site.context, leader.require_lead))


def acted(site: ApiClient, job: str) -> list[dict[str, Any]]:
    return [e["data"] for e in site.rows(events, events.c.job_id == job, events.c.type == "rule.acted")]


def running(site: ApiClient, **more: Any) -> tuple[str, Any]:
    """A job, and its runner that has begun the first task."""
    job = site.submit(frame_range="1-4", **more)["id"]
    runner = site.runner(job)
    runner.report(runner.started(runner.sync().tasks[0]))
    return job, runner


def counts_agree(site: ApiClient, job: str) -> None:
    state = site.row(job_state, job_state.c.job_id == job)
    rows = [t["status"] for t in site.rows(tasks, tasks.c.job_id == job)]
    for name in ("pending", "running", "success", "failed", "cancelled"):
        assert state[f"rows_{name}"] == rows.count(name), name


def test_rule_runtime_kill_fails_the_task_for_good_and_stops_its_machine(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    rule = add(site, kind="max_task_runtime", seconds=60, action="kill")
    job, runner = running(site, task_retries=5)
    clock.now_ms += 60_000
    assert apply_rules(site, leader) == 0
    clock.now_ms += 1_000
    assert apply_rules(site, leader) == 1
    first = site.get(f"/api/jobs/{job}/tasks/0")
    assert first["status"] == "failed" and "rule of the account" in first["reason"]
    ended = site.rows(attempts, attempts.c.outcome == "timed_out")
    assert [(a["cause"], a["billed_ms"]) for a in ended] == [("rule_runtime", 61_000)]
    assert runner.sync().cancel
    counts_agree(site, job)
    (event,) = acted(site, job)
    assert (event["rule"], event["action"], event["task"]) == (rule, "kill", 0)
    (row,) = site.rows(audit, audit.c.action == "rule.kill")
    assert (row["actor"], row["target"]) == (f"rule:{rule}", job)
    assert "ran longer than the 60 seconds" in row["after"]["reason"]


def test_rule_runtime_retry_counts_as_a_failure_and_goes_to_another_machine(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="max_task_runtime", seconds=60, action="retry")
    job, runner = running(site, task_retries=1)
    (old,) = [t for t in runner.sync().tasks if t.number == 0]
    clock.now_ms += 61_000
    assert apply_rules(site, leader) == 1
    assert site.get(f"/api/jobs/{job}/tasks/0")["retries_left"] == 0
    receipt = runner.report(runner.ended(old, "cancelled", ms=61_000))
    assert receipt.verdicts == ["superseded"]
    runner.end()
    counts_agree(site, job)
    clock.now_ms += 5_000
    other = site.runner(job)
    again = other.sync().tasks[0]
    assert again.number == 0
    other.report(other.started(again))
    clock.now_ms += 61_000
    apply_rules(site, leader)
    assert site.get(f"/api/jobs/{job}/tasks/0")["status"] == "failed"
    counts_agree(site, job)


def test_task_runs_long_is_told_once_and_nothing_is_stopped(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="max_task_runtime", seconds=60, action="notify")
    job, runner = running(site)
    clock.now_ms += 61_000
    assert [apply_rules(site, leader) for _ in range(3)] == [1, 0, 0]
    assert [w["code"] for w in site.get(f"/api/jobs/{job}")["warnings"]] == ["task_runs_long"]
    assert not runner.sync().cancel


def test_a_silent_machines_task_is_left_to_whoever_comes_first(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="max_task_runtime", seconds=60, action="kill")
    job, runner = running(site)
    clock.now_ms += 61_000
    site.context.db.write_now(expiry.expire, runner.session)
    assert site.row(sessions)["state"] == "lost"
    assert apply_rules(site, leader) == 0
    counts_agree(site, job)


def test_a_job_that_waits_for_spot_goes_on_demand(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    rule = add(site, kind="spot_to_on_demand", wait_seconds=900, min_priority=80)
    urgent = site.submit(frame_range="1-4", preemptible=True, priority=80)["id"]
    other = site.submit(frame_range="1-4", preemptible=True, priority=79)["id"]
    clock.now_ms += 899_000
    assert apply_rules(site, leader) == 0
    clock.now_ms += 1_000
    assert [apply_rules(site, leader) for _ in range(2)] == [1, 0]
    assert not site.get(f"/api/jobs/{urgent}")["preemptible"]
    assert site.get(f"/api/jobs/{other}")["preemptible"]
    assert [e["action"] for e in acted(site, urgent)] == ["on_demand"]
    leader.turn()
    mine = site.rows(sessions, sessions.c.job_id == urgent)
    assert mine and not any(s["preemptible"] for s in mine)
    seen = site.get(f"/api/wrangler/rules/{rule}")
    assert (seen["acted"], "waited 900 seconds" in seen["last_reason"]) == (1, True)


def test_a_job_that_has_a_machine_or_is_held_does_not_wait_for_spot(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="spot_to_on_demand", wait_seconds=900)
    busy, _ = running(site, preemptible=True)
    held = site.submit(frame_range="1-4", preemptible=True, hold=True)["id"]
    clock.now_ms += 10_000_000
    assert apply_rules(site, leader) == 0
    assert site.get(f"/api/jobs/{busy}")["preemptible"] and site.get(f"/api/jobs/{held}")["preemptible"]


def test_upload_waits_is_told_again_only_after_something_arrived(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="stalled_upload", remind_after_seconds=60)
    paths = ["/film/shot.blend", "/film/a.png", "/film/b.png"]
    assert site.upload(paths[0]).status_code == 200
    job = site.ask("POST", "/api/jobs", json=site.payload(upload_paths=paths)).json()["id"]
    assert site.status(job) == "syncing"
    clock.now_ms += 60_000
    assert [apply_rules(site, leader) for _ in range(2)] == [1, 0]
    clock.now_ms += 1_000
    assert site.upload(paths[1]).status_code == 200
    clock.now_ms += 59_000
    assert apply_rules(site, leader) == 0
    clock.now_ms += 1_000
    assert apply_rules(site, leader) == 1
    (first, second) = site.get(f"/api/jobs/{job}")["warnings"]
    assert first["code"] == second["code"] == "upload_waits"
    assert ("2 of its files" in first["message"], "1 of its files" in second["message"]) == (True, True)


def test_upload_stalled_fails_the_job_in_the_end(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="stalled_upload", remind_after_seconds=None, fail_after_seconds=120)
    assert site.upload().status_code == 200
    paths = ["/film/shot.blend", "/film/never.png"]
    job = site.ask("POST", "/api/jobs", json=site.payload(upload_paths=paths)).json()["id"]
    clock.now_ms += 120_000
    assert apply_rules(site, leader) == 1
    seen = site.get(f"/api/jobs/{job}")
    assert (seen["status"], seen["cause"]) == ("failed", "upload_stalled")
    assert "120 seconds" in seen["message"]


def test_a_rule_is_for_its_own_account(
    site: ApiClient, other: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(other, kind="max_task_runtime", seconds=1, action="kill")
    running(site)
    clock.now_ms += 61_000
    assert apply_rules(site, leader) == 0


def test_a_rule_that_is_off_does_nothing(site: ApiClient, leader: ManualDispatcher, clock: FakeClock) -> None:
    rule = add(site, kind="max_task_runtime", seconds=1, action="kill")
    where = f"/api/wrangler/rules/{rule}"
    assert site.ask("PATCH", where, json={"enabled": False}).json()["enabled"] is False
    running(site)
    clock.now_ms += 61_000
    assert apply_rules(site, leader) == 0
    assert site.ask("PATCH", where, json={"enabled": True}).status_code == 200
    assert apply_rules(site, leader) == 1
    assert site.ask("DELETE", where).status_code == 204
    assert site.ask("GET", where).status_code == 404
    assert site.rows(wrangler_actions) == []


def test_action_that_is_no_longer_due_is_not_done(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    add(site, kind="max_task_runtime", seconds=60, action="kill")
    job, runner = running(site)
    clock.now_ms += 61_000
    (action,) = site.context.db.read_now(rule_engine.due)
    (task, *_) = runner.sync().tasks
    runner.report(*[runner.saved(task, f) for f in task.frames], runner.ended(task))
    assert not site.context.db.write_now(rule_engine.act, action, leader.require_lead)
    assert site.get(f"/api/jobs/{job}/tasks/0")["status"] == "success"


def test_former_leader_does_no_action(site: ApiClient, leader: ManualDispatcher, clock: FakeClock) -> None:
    add(site, kind="max_task_runtime", seconds=60, action="kill")
    job, _ = running(site)
    clock.now_ms += 61_000
    ManualDispatcher(site.context, FakeEngine(8), site.loop)
    with pytest.raises(NotLeader):
        site.context.db.write_now(leader.require_lead)
    assert apply_rules(site, leader) == 0
    assert site.get(f"/api/jobs/{job}/tasks/0")["status"] == "running"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"kind": "change_zone", "wait_seconds": 60}, "no engine of this farm knows zones"),
        ({"kind": "stalled_upload", "remind_after_seconds": None}, "give a time"),
        ({"kind": "stalled_upload", "remind_after_seconds": 9, "fail_after_seconds": 9}, "must be more"),
        ({"kind": "max_task_runtime", "seconds": 0}, "must be at least 1"),
        ({"kind": "max_task_runtime", "seconds": 9, "action": "sing"}, "kill"),
        ({"kind": "of thumb"}, "kind"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(site: ApiClient, body: dict[str, Any], word: str) -> None:
    answer = site.ask("POST", "/api/wrangler/rules", json=body)
    assert answer.status_code == 422
    assert word in answer.text


def test_change_zone_is_refused_because_jobs_use_all_zones(site: ApiClient, leader: ManualDispatcher) -> None:
    engine = FakeEngine(1, [("m1", "south"), ("m2", "north")])
    job = site.submit(frame_range="1-4")["id"]
    ManualDispatcher(site.context, engine, site.loop).turn()
    mine = site.rows(sessions, sessions.c.job_id == job)
    assert sorted((s["node"], s["zone"]) for s in mine) == [("m1", "south"), ("m2", "north")]
    answer = site.ask("POST", "/api/wrangler/rules", json={"kind": "change_zone", "wait_seconds": 60})
    assert answer.status_code == 422
    assert "takes machines of every zone from the start (north, south)" in answer.text


def test_rules_are_for_admins(site: ApiClient) -> None:
    member = site.member()
    assert member.ask("GET", "/api/wrangler/rules").status_code == 403
    body = {"kind": "max_task_runtime", "seconds": 9}
    assert member.ask("POST", "/api/wrangler/rules", json=body).status_code == 403
