"""Budgets: sessions take money before they spend it, and jobs are held before a limit is passed."""

from __future__ import annotations

from typing import Any

import pytest
from api_client import ApiClient
from fake_engine import FakeEngine, ManualDispatcher
from fake_session import FakeSession, frame_saved
from test_billing import FakeClock, works

from framefarm.protocol import node as msg
from framefarm.server.accounts.tables import audit
from framefarm.server.budgets.tables import budget_holds, budgets, reservations
from framefarm.server.catalog import service as catalog
from framefarm.server.jobs.tables import events
from framefarm.server.sessions.tables import attempts, sessions

DOLLAR = 1_000_000
HOURLY = 3600 * DOLLAR
"""Micro-dollars per hour: a dollar a second."""


@pytest.fixture
def clock(site: ApiClient) -> FakeClock:
    return FakeClock(site)


@pytest.fixture
def leader(site: ApiClient, clock: FakeClock) -> ManualDispatcher:
    site.context.db.write_now(catalog.set_price, site.instance, HOURLY, HOURLY)
    site.context.settings.lease_seconds = 10_000.0
    return ManualDispatcher(site.context, FakeEngine(8), site.loop)


def set_budget(site: ApiClient, **body: Any) -> dict[str, Any]:
    answer = site.ask("POST", "/api/budgets", json={"amount_micros": 100 * DOLLAR} | body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def budget(site: ApiClient, budget_id: str) -> dict[str, Any]:
    found: dict[str, Any] = site.get(f"/api/budgets/{budget_id}")
    return found


def micros(site: ApiClient, budget_id: str) -> tuple[int, int]:
    """(spent, reserved) of a budget, in micro-dollars."""
    seen = budget(site, budget_id)
    return seen["spent"]["amount_micros"], seen["reserved"]["amount_micros"]


def machines(site: ApiClient, leader: ManualDispatcher) -> list[FakeSession]:
    """Sessions that the leader has started and that have not called yet."""
    engine = leader.engine
    assert isinstance(engine, FakeEngine)
    known = {row["id"] for row in site.rows(sessions, sessions.c.state == "starting")}
    made = [FakeSession(site.context, spec) for spec in engine.started.values() if spec.id in known]
    for one in made:
        one.hello()
        one.sync()
    return made


def kinds(site: ApiClient, job: str) -> list[str]:
    return [e["type"] for e in site.rows(events, events.c.job_id == job)]


def pass_time(clock: FakeClock, leader: ManualDispatcher, seconds: float) -> None:
    """Let seconds pass, with a tick of the leader every 2 s."""
    while seconds > 0:
        clock.now_ms += round(min(2.0, seconds) * 1000)
        seconds -= 2.0
        leader.turn()


def agrees(site: ApiClient) -> None:
    """Check that the counters of every budget are the sums of their rows."""
    for row in site.rows(budgets):
        held = [r["held_micros"] for r in site.rows(reservations, reservations.c.budget_id == row["id"])]
        assert row["reserved_micros"] == sum(held)
    live = {r["session_id"] for r in site.rows(reservations)}
    assert live <= {s["id"] for s in site.rows(sessions)}


def test_a_session_sets_money_aside_before_it_starts(site: ApiClient, leader: ManualDispatcher) -> None:
    made = set_budget(site, amount_micros=10_000 * DOLLAR)
    site.submit(frame_range="1", max_sessions=1)
    leader.turn()
    assert micros(site, made["id"]) == (0, 900 * DOLLAR)
    agrees(site)


def test_unspent_reservation_of_an_ended_session_is_returned(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    made = set_budget(site, amount_micros=10_000 * DOLLAR)
    job = site.submit(frame_range="1", max_sessions=1)["id"]
    leader.turn()
    (machine,) = machines(site, leader)
    machine.render()
    clock.now_ms += 7000
    machine.send()
    (spent,) = [a["cost_micros"] for a in site.rows(attempts)]
    machine.outbox.append(msg.SessionEnded(reason="drained"))
    machine.send()
    site.publish()
    leader.turn()
    assert site.status(job) == "success"
    assert micros(site, made["id"]) == (spent, 0)
    assert site.rows(reservations) == []


def test_a_job_without_money_is_held_and_no_machine_starts(site: ApiClient, leader: ManualDispatcher) -> None:
    made = set_budget(site, amount_micros=DOLLAR)
    job = site.submit(frame_range="1-9")["id"]
    leader.turn()
    seen = site.get(f"/api/jobs/{job}")
    assert (seen["status"], seen["hold_reasons"]) == ("holding", ["budget"])
    assert "budget" in seen["waiting_for"]
    assert site.rows(sessions) == []
    assert budget(site, made["id"])["jobs_held"] == 1
    assert kinds(site, job).count("budget.held") == 1
    (row,) = site.rows(audit, audit.c.action == "budget.held")
    assert (row["actor"], row["target"]) == (f"budget:{made['id']}", job)


def test_unhold_of_a_budgets_hold_is_a_conflict_with_the_remedy(
    site: ApiClient, leader: ManualDispatcher
) -> None:
    set_budget(site, amount_micros=DOLLAR)
    job = site.submit(frame_range="1-9")["id"]
    leader.turn()
    answer = site.ask("PATCH", f"/api/jobs/{job}", json={"action": "unhold"})
    assert answer.status_code == 409
    assert "raise or remove the budget" in answer.json()["detail"]


@pytest.mark.parametrize("how", ["raise", "remove", "percent"])
def test_a_job_goes_on_by_itself_once_its_budget_allows_it(
    site: ApiClient, leader: ManualDispatcher, how: str
) -> None:
    made = set_budget(site, amount_micros=DOLLAR, warn_at=1, hold_at=50)
    job = site.submit(frame_range="1-9", max_sessions=1)["id"]
    leader.turn()
    assert site.status(job) == "holding"
    leader.turn()
    assert site.status(job) == "holding"
    where = f"/api/budgets/{made['id']}"
    if how == "remove":
        assert site.ask("DELETE", where).status_code == 204
    else:
        change = {"amount_micros": 100 * DOLLAR} if how == "raise" else {"hold_at": 1000}
        assert site.ask("PATCH", where, json=change).status_code == 200
    leader.turn()
    assert site.status(job) == "pending"
    assert site.rows(budget_holds) == []
    assert kinds(site, job)[-2:] == ["budget.lifted", "job.status"]
    leader.turn()
    assert len(site.rows(sessions)) == 1


def test_with_drain_frames_in_work_end_and_nothing_more_is_begun(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    made = set_budget(site, amount_micros=20 * DOLLAR, mode="drain")
    job = site.submit(frame_range="1-9", max_sessions=1, chunk_size=9)["id"]
    leader.turn()
    (machine,) = machines(site, leader)
    assert machine.desk.next(site.context.db.clock_ms()) is not None
    task = machine.desk.current
    assert task is not None
    machine.outbox.append(msg.TaskStarted(attempt=task.order.attempt, at_ms=clock.now_ms))
    machine.send()
    pass_time(clock, leader, 30)
    assert site.status(job) == "holding"
    machine.sync()
    assert not machine.over and not machine.desk.drain
    _, follows = machine.desk.saved(1, 1, clock.now_ms) or ("", [])
    machine.outbox += [frame_saved(task.order.attempt, 1, clock.now_ms), *follows]
    machine.send()
    assert machine.desk.tasks == {}
    machine.outbox.append(msg.SessionEnded(reason="drained"))
    machine.send()
    leader.turn()
    spent, reserved = micros(site, made["id"])
    assert reserved == 0 and spent == site.row(attempts)["cost_micros"]
    assert 20 * DOLLAR < spent <= 31 * DOLLAR
    assert site.status(job) == "holding"
    agrees(site)


def test_with_stop_sessions_are_stopped_before_the_limit(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    made = set_budget(site, amount_micros=60 * DOLLAR, mode="stop")
    job = site.submit(frame_range="1-9", max_sessions=1)["id"]
    leader.turn()
    (machine,) = machines(site, leader)
    due = machine.desk.next(clock.now_ms)
    assert due is not None
    machine.outbox.append(msg.TaskStarted(attempt=due.attempt, at_ms=clock.now_ms))
    machine.send()
    for _ in range(60):
        pass_time(clock, leader, 2)
        if site.row(sessions)["cancel"]:
            break
    began = site.row(attempts)["started_ms"]
    assert 60_000 - (clock.now_ms - began) >= 6000, "there is time to stop it"
    clock.now_ms += 5000
    machine.sync()
    machine.send()
    assert site.status(job) == "holding"
    spent = site.row(attempts)["cost_micros"]
    assert 40 * DOLLAR < spent < 60 * DOLLAR
    assert micros(site, made["id"])[0] == spent
    agrees(site)


def test_with_stop_a_machine_that_was_cut_off_is_not_billed_beyond_the_limit(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    made = set_budget(site, amount_micros=60 * DOLLAR, mode="stop")
    site.submit(frame_range="1", max_sessions=1)
    leader.turn()
    (machine,) = machines(site, leader)
    machine.render()
    clock.now_ms += 3_600_000
    ended = machine.outbox[-1]
    assert isinstance(ended, msg.TaskEnded)
    ended.ended_ms = ended.started_ms + 3_600_000
    machine.send()
    cost = site.row(attempts)["cost_micros"]
    assert 0 < cost <= 60 * DOLLAR
    leader.turn()
    assert micros(site, made["id"])[0] == cost


def test_every_budget_above_a_job_counts(site: ApiClient, leader: ManualDispatcher) -> None:
    project = set_budget(site, project="default", amount_micros=10_000 * DOLLAR)
    account = set_budget(site, amount_micros=DOLLAR)
    job = site.submit(frame_range="1")["id"]
    leader.turn()
    assert site.get(f"/api/jobs/{job}")["hold_reasons"] == ["budget"]
    assert micros(site, project["id"]) == (0, 0), "nothing is set aside where another budget has nothing"
    assert (budget(site, account["id"])["jobs_held"], budget(site, project["id"])["jobs_held"]) == (1, 0)


def test_a_jobs_budget_holds_that_job_only(site: ApiClient, leader: ManualDispatcher) -> None:
    one = site.submit(frame_range="1", max_sessions=1)["id"]
    two = site.submit(frame_range="1", max_sessions=1)["id"]
    set_budget(site, job=one, amount_micros=DOLLAR)
    leader.turn()
    assert (site.status(one), site.status(two)) == ("holding", "pending")
    assert [s["job_id"] for s in site.rows(sessions)] == [two]


def test_a_budget_counts_what_was_spent_before_it_was_set(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    job = site.submit(frame_range="1-2", max_sessions=1)["id"]
    runner = site.runner(job)
    works(clock, runner, 4000)
    made = set_budget(site, amount_micros=10_000 * DOLLAR)
    spent = sum(a["cost_micros"] for a in site.rows(attempts))
    assert spent > 0 and micros(site, made["id"]) == (spent, 0)
    leader.turn()
    works(clock, runner, 2000)
    spent = sum(a["cost_micros"] for a in site.rows(attempts))
    assert micros(site, made["id"])[0] == spent
    leader.turn()
    runner.end()
    leader.turn()
    assert micros(site, made["id"]) == (spent, 0)


def test_a_new_month_begins_with_nothing_spent(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    job = site.submit(frame_range="1-9", max_sessions=1)["id"]
    runner = site.runner(job)
    works(clock, runner, 60_000)
    made = set_budget(site, amount_micros=60_000)
    leader.turn()
    assert site.status(job) == "holding"
    clock.now_ms += 32 * 24 * 3_600_000
    leader.turn()
    seen = budget(site, made["id"])
    assert (seen["spent"]["amount_micros"], seen["warned"]) == (0, False)
    assert seen["period_start"] > made["period_start"]


def test_budget_low_is_told_once_as_event_and_warning(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    job = site.submit(frame_range="1-9", max_sessions=1)["id"]
    set_budget(site, amount_micros=10_000, warn_at=40, hold_at=None)
    runner = site.runner(job)
    works(clock, runner, 5000)
    for _ in range(3):
        leader.turn()
    (warning,) = site.get(f"/api/jobs/{job}")["warnings"]
    assert warning["code"] == "budget_low" and "0.005 USD" in warning["message"]
    assert kinds(site, job).count("budget.warned") == 1
    assert site.get("/api/billing/current-period")["budgets"][0]["warned"] is True


def test_a_budget_that_cancels_cancels(site: ApiClient, leader: ManualDispatcher) -> None:
    set_budget(site, amount_micros=DOLLAR, hold_at=None, cancel_at=100)
    job = site.submit(frame_range="1-9")["id"]
    leader.turn()
    assert site.status(job) == "cancelled"
    assert "budget.cancelled" in kinds(site, job)


def test_many_sessions_share_the_rest_of_a_budget_without_passing_it(
    site: ApiClient, leader: ManualDispatcher, clock: FakeClock
) -> None:
    made = set_budget(site, amount_micros=200 * DOLLAR, mode="stop")
    site.submit(frame_range="1-90")
    leader.turn()
    assert len(site.rows(sessions)) >= 3
    working = machines(site, leader)
    for _ in range(150):
        clock.now_ms += 2000
        for machine in working:
            if not machine.over:
                machine.render()
                machine.send()
                machine.sync()
                machine.send()
        leader.turn()
        spent, reserved = micros(site, made["id"])
        assert spent + reserved <= 200 * DOLLAR
        agrees(site)
    assert sum(a["cost_micros"] for a in site.rows(attempts)) == micros(site, made["id"])[0]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount_micros": 0}, "amount_micros"),
        ({"project": "none such"}, "project"),
        ({"job": "job_none"}, "job"),
        ({"project": "default", "job": "job_none"}, "job"),
        ({"warn_at": None, "hold_at": None}, "hold_at"),
        ({"warn_at": 90, "hold_at": 80}, "hold_at"),
        ({"cancel_at": 90}, "hold_at"),
        ({"mode": "sometimes"}, "mode"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(site: ApiClient, body: dict[str, Any], field: str) -> None:
    answer = site.ask("POST", "/api/budgets", json={"amount_micros": DOLLAR} | body)
    assert answer.status_code == 422
    assert [e["field"].split(".")[-1] for e in answer.json()["errors"]] == [field]


def test_another_accounts_job_or_project_can_have_no_budget_here(site: ApiClient, other: ApiClient) -> None:
    job = site.submit(frame_range="1")["id"]
    answer = other.ask("POST", "/api/budgets", json={"amount_micros": 1, "job": job})
    assert answer.status_code == 422
    made = set_budget(site)
    assert other.get("/api/budgets")["data"] == []
    assert other.ask("PATCH", f"/api/budgets/{made['id']}", json={"warn_at": 1}).status_code == 404


def test_budgets_are_for_admins(site: ApiClient) -> None:
    member = site.member()
    assert member.ask("GET", "/api/budgets").status_code == 403
    assert member.ask("POST", "/api/budgets", json={"amount_micros": 1}).status_code == 403


def test_setting_and_changing_a_budget_is_in_the_audit(site: ApiClient) -> None:
    made = set_budget(site)
    where = f"/api/budgets/{made['id']}"
    changed = site.ask("PATCH", where, json={"hold_at": None, "warn_at": 70}).json()
    assert (changed["warn_at"], changed["hold_at"], changed["left"]) == (70, None, None)
    assert site.ask("DELETE", where).status_code == 204
    assert site.ask("GET", where).status_code == 404
    rows = site.rows(audit, audit.c.target == made["id"])
    assert [r["action"] for r in rows] == ["budget.create", "budget.change", "budget.delete"]
    assert rows[1]["before"] == {"warn_at": 80, "hold_at": 100}
