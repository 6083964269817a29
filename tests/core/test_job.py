"""The states of jobs, tasks and sessions, as tables of cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core import job as rules
from framefarm.core import session_lease
from framefarm.core.job import Change, JobFacts, TaskStatus, job_status
from framefarm.core.task_outcomes import TaskFacts

HOLDS: tuple[rules.Hold, ...] = get_args(rules.Hold)
NEW = JobFacts(
    next=0, task_count=10, scout_count=0, holds=frozenset(), gate_open=False, missing=0, scene_read=True,
    depends_left=0, cancel_asked=False, failed=False, pending=0, running=0, success=0, failures=0,
    preempted=0, scouts_ended=0, unpublished=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "pending"),
        ({"missing": 2}, "syncing"),
        ({"missing": 2, "holds": frozenset({"user"})}, "holding"),
        ({"next": 1, "running": 1}, "running"),
        ({"next": 10, "success": 10}, "success"),
        ({"next": 10, "success": 10, "unpublished": 1}, "running"),
        ({"next": 10, "success": 9, "failures": 1}, "failed"),
        ({"next": 10, "success": 9, "preempted": 1}, "failed"),
        ({"next": 10, "success": 9, "pending": 1}, "running"),
        ({"next": 10, "success": 10, "unpublished": 1, "holds": frozenset({"user"})}, "running"),
        ({"next": 10, "success": 9, "running": 1}, "running"),
        ({"next": 10, "success": 9, "failures": 1, "unpublished": 1}, "failed"),
        ({"next": 1, "pending": 1}, "pending"),
        ({"next": 1, "success": 1}, "running"),
        ({"next": 1, "failures": 1}, "running"),
        ({"next": 1, "preempted": 1}, "running"),
        ({"next": 1, "success": 1, "missing": 1}, "syncing"),
        ({"next": 1, "running": 1, "holds": frozenset({"rule"})}, "holding"),
        ({"task_count": None}, "pending"),
        ({"task_count": None, "scene_read": False, "missing": 1}, "syncing"),
        ({"cancel_asked": True, "running": 1}, "cancelling"),
        ({"cancel_asked": True, "unpublished": 1}, "cancelling"),
        ({"cancel_asked": True}, "cancelled"),
        ({"cancel_asked": True, "failed": True}, "cancelled"),
        ({"failed": True}, "failed"),
        ({"failed": True, "running": 1}, "running"),
        ({"scout_count": 3, "next": 3, "success": 2, "pending": 1, "scouts_ended": 3}, "running"),
        ({"scout_count": 3, "next": 3, "success": 2, "running": 1, "scouts_ended": 3}, "running"),
        ({"scout_count": 3, "next": 3, "success": 3, "scouts_ended": 3}, "holding"),
        ({"scout_count": 3, "next": 3, "success": 2, "failures": 1, "scouts_ended": 3}, "holding"),
        ({"scout_count": 3, "next": 3, "success": 3, "scouts_ended": 3, "gate_open": True}, "running"),
        ({"scout_count": 10, "next": 10, "success": 10, "scouts_ended": 10}, "success"),
    ],
)
def test_a_jobs_status_follows_from_its_facts(change: dict[str, Any], status: str) -> None:
    assert job_status(replace(NEW, **change)) == status


BLOCKERS: list[dict[str, Any]] = [
    {"scene_read": False},
    {"holds": frozenset({"rule"})},
    {"missing": 1},
    {"depends_left": 1},
    {"cancel_asked": True},
    {"failed": True},
    {"task_count": None},
]


@pytest.mark.parametrize("change", BLOCKERS, ids=lambda change: next(iter(change)))
def test_a_single_blocker_keeps_every_task_from_starting(change: dict[str, Any]) -> None:
    ready_job = replace(NEW, next=1, pending=1)
    assert (ready_job.may_start, ready_job.ready) == (True, 10)
    blocked = replace(ready_job, **change)
    assert (blocked.may_start, blocked.ready) == (False, 0)
    ended = "cancel_asked" in change or "failed" in change
    assert rules.untouched_status(blocked, 1) is (TaskStatus.CANCELLED if ended else TaskStatus.WAITING)


def test_the_scout_gate_hides_the_rest() -> None:
    scouts = replace(NEW, scout_count=3)
    assert scouts.ready == 3
    assert rules.untouched_status(scouts, 2) is TaskStatus.PENDING
    assert rules.untouched_status(scouts, 3) is TaskStatus.WAITING
    assert rules.untouched_status(scouts, 9) is TaskStatus.WAITING
    assert replace(scouts, gate_open=True).ready == 10


@pytest.mark.parametrize(
    ("change", "limit", "ready"),
    [
        ({"next": 4, "pending": 2}, 10, 8),
        ({"next": 10, "pending": 2}, 10, 2),
        ({"next": 9, "running": 9}, 10, 1),
        ({"scout_count": 1}, 1, 1),
        ({"scout_count": 3, "next": 2}, 3, 1),
        ({"scout_count": 3, "next": 3, "pending": 1}, 3, 1),
        ({"scout_count": 3, "next": 5, "pending": 1}, 3, 1),
        ({"scout_count": 3, "next": 5, "pending": 1, "gate_open": True}, 10, 6),
        ({"task_count": None, "scout_count": 3}, 0, 0),
    ],
)
def test_ready_tasks_are_the_pending_ones_and_the_untouched_ones_below_the_gate(
    change: dict[str, Any], limit: int, ready: int
) -> None:
    job = replace(NEW, **change)
    assert (job.limit, job.ready) == (limit, ready)


def test_a_job_without_known_frames_has_no_untouched_tasks() -> None:
    assert replace(NEW, next=4).untouched == 6
    assert replace(NEW, task_count=None).untouched == 0


@pytest.mark.parametrize(
    ("change", "closed"),
    [
        ({}, True),
        ({"gate_open": True}, False),
        ({"scouts_ended": 0}, False),
        ({"task_count": None}, False),
        ({"task_count": 1}, False),
        ({"task_count": 0}, False),
        ({"scout_count": 0, "scouts_ended": 0}, False),
    ],
)
def test_the_gate_is_closed_once_all_scouts_ended_and_more_tasks_follow(
    change: dict[str, Any], closed: bool
) -> None:
    job = replace(NEW, **{"scout_count": 1, "next": 1, "success": 1, "scouts_ended": 1} | change)
    assert job.scouts_closed == closed
    assert rules.hold_reasons(job) == (["scouts"] if closed else [])


def test_hold_reasons_are_the_sorted_holds_and_the_closed_gate() -> None:
    held = replace(NEW, holds=frozenset({"user", "budget", "rule", "dependency"}))
    assert rules.hold_reasons(held) == ["budget", "dependency", "rule", "user"]
    gated = replace(held, scout_count=1, next=1, success=1, scouts_ended=1)
    assert rules.hold_reasons(gated) == ["budget", "dependency", "rule", "user", "scouts"]


@pytest.mark.parametrize("change", [{"next": 10, "success": 10}, {"next": 10, "failures": 10}])
def test_a_finished_job_refuses_every_action(change: dict[str, Any]) -> None:
    job = replace(NEW, **change)
    for action in (rules.hold, rules.unhold, rules.cancel):
        with pytest.raises(rules.Refused, match=f"The job is {job_status(job)};"):
            action(job)


@pytest.mark.parametrize(("running", "status"), [(0, "cancelled"), (1, "cancelling")])
def test_a_cancelled_job_can_only_be_cancelled_again(running: int, status: str) -> None:
    job = replace(NEW, cancel_asked=True, running=running, holds=frozenset({"user"}), gate_open=True)
    for action in (rules.hold, rules.unhold):
        with pytest.raises(rules.Refused, match=f"The job is {status};"):
            action(job)
    assert rules.cancel(job) == rules.cancel(replace(job, cancel_asked=False))


@given(st.frozensets(st.sampled_from(HOLDS)), st.booleans(), st.sampled_from(HOLDS))
def test_holding_and_lifting_change_one_hold_and_nothing_else(
    holds: frozenset[str], gate_open: bool, hold: rules.Hold
) -> None:
    job = replace(NEW, scout_count=3, holds=holds, gate_open=gate_open)
    assert rules.hold(job) == Change(holds | {"user"}, gate_open, cancel=False, stop=False)
    assert rules.hold(job, by=hold) == Change(holds | {hold}, gate_open, cancel=False, stop=False)
    assert rules.hold(job, drain=False) == Change(holds | {"user"}, gate_open, cancel=False, stop=True)
    assert rules.lift(job, hold) == Change(holds - {hold}, gate_open, cancel=False, stop=False)
    assert rules.cancel(job) == Change(holds, gate_open, cancel=True, stop=True)


@given(st.frozensets(st.sampled_from(["user", "rule", "dependency"]), min_size=1), st.booleans())
def test_unhold_lifts_every_hold_but_a_budgets_and_leaves_the_gate(
    holds: frozenset[str], gate_open: bool
) -> None:
    job = replace(NEW, scout_count=3, holds=holds, gate_open=gate_open)
    assert rules.unhold(job) == Change(frozenset(), gate_open, cancel=False, stop=False)


def test_unhold_lifts_holds_first_and_opens_the_gate_next() -> None:
    held = replace(NEW, scout_count=3, holds=frozenset({"user", "dependency"}))
    once = rules.unhold(held)
    assert (once.holds, once.gate_open) == (frozenset(), False)
    assert rules.unhold(replace(held, holds=once.holds)) == Change(frozenset(), True)


def test_a_budgets_hold_is_not_lifted_by_a_person() -> None:
    with pytest.raises(rules.Refused, match="budget"):
        rules.unhold(replace(NEW, holds=frozenset({"budget", "user"})))


RUNNING = TaskFacts(TaskStatus.RUNNING, 0, 0, 0, preemptible_retries=1, task_retries=2)


def test_finished_jobs_live_sessions_and_holds_are_those_of_the_docs() -> None:
    assert {"success", "failed", "cancelled"} == rules.FINISHED
    assert {"ready", "rendering", "idle"} == session_lease.LIVE
    assert set(HOLDS) == {"budget", "dependency", "rule", "user"}
    assert {"user", "rule", "dependency"} == rules.LIFTED_BY_UNHOLD
