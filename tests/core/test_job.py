"""The states of jobs and tasks, as tables of cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core import job as rules
from framefarm.core.job import JobFacts, JobStatus, TaskStatus, job_status
from framefarm.core.session_lease import SessionEvent, SessionState, judge_session, session_after
from framefarm.core.task_assignment import batch_size
from framefarm.core.task_outcomes import FARM_LOSSES, Outcome, TaskFacts, task_after

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
        ({"cancel_asked": True, "running": 1}, "cancelling"),
        ({"cancel_asked": True}, "cancelled"),
        ({"failed": True}, "failed"),
        ({"scout_count": 3, "next": 3, "success": 3, "scouts_ended": 3}, "holding"),
        ({"scout_count": 3, "next": 3, "success": 2, "failures": 1, "scouts_ended": 3}, "holding"),
        ({"scout_count": 3, "next": 3, "success": 3, "scouts_ended": 3, "gate_open": True}, "running"),
        ({"scout_count": 10, "next": 10, "success": 10, "scouts_ended": 10}, "success"),
    ],
)
def test_a_jobs_status_follows_from_its_facts(change: dict[str, Any], status: str) -> None:
    assert job_status(replace(NEW, **change)) == status


def test_the_scout_gate_hides_the_rest() -> None:
    scouts = replace(NEW, scout_count=3)
    assert scouts.ready == 3
    assert rules.untouched_status(scouts, 2) is TaskStatus.PENDING
    assert rules.untouched_status(scouts, 3) is TaskStatus.WAITING
    assert replace(scouts, gate_open=True).ready == 10


@pytest.mark.parametrize("change", [{"next": 10, "success": 10}, {"next": 10, "failures": 10}])
def test_a_finished_job_refuses_every_action(change: dict[str, Any]) -> None:
    for action in (rules.hold, rules.unhold, rules.cancel):
        with pytest.raises(rules.Refused):
            action(replace(NEW, **change))


def test_unhold_lifts_holds_first_and_opens_the_gate_next() -> None:
    held = replace(NEW, scout_count=3, holds=frozenset({"user", "dependency"}))
    once = rules.unhold(held)
    assert (once.holds, once.gate_open) == (frozenset(), False)
    assert rules.unhold(replace(held, holds=once.holds)).gate_open


def test_a_budgets_hold_is_not_lifted_by_a_person() -> None:
    with pytest.raises(rules.Refused, match="budget"):
        rules.unhold(replace(NEW, holds=frozenset({"budget", "user"})))


RUNNING = TaskFacts(TaskStatus.RUNNING, 0, 0, 0, preemptible_retries=1, task_retries=2)


@pytest.mark.parametrize(
    ("task", "outcome", "committed", "status"),
    [
        (RUNNING, Outcome.SUCCESS, 1, "success"),
        (RUNNING, Outcome.FAILED, 0, "pending"),
        (replace(RUNNING, failures=2), Outcome.FAILED, 0, "failed"),
        (replace(RUNNING, failures=2), Outcome.PREEMPTED, 0, "pending"),
        (replace(RUNNING, preemptions=1), Outcome.PREEMPTED, 0, "preempted"),
        (replace(RUNNING, preemptions=1), Outcome.PREEMPTED, 1, "pending"),
        (replace(RUNNING, preemptible_retries=0), Outcome.PREEMPTED, 5, "preempted"),
        (replace(RUNNING, failures=2, preemptions=1), Outcome.LOST, 0, "pending"),
        (replace(RUNNING, losses=FARM_LOSSES), Outcome.LOST, 0, "failed"),
        (RUNNING, Outcome.CANCELLED, 0, "cancelled"),
    ],
)
def test_budgets_of_patience_are_counted_apart(
    task: TaskFacts, outcome: Outcome, committed: int, status: str
) -> None:
    assert task_after(task, outcome, committed_frames=committed).status == status


@given(
    st.integers(0, 20), st.none() | st.integers(1, 100_000), st.integers(1, 50), st.integers(1, 500),
    st.integers(1, 50),
)  # fmt: skip
def test_a_hand_out_is_bounded_and_an_empty_session_gets_work(
    held: int, frame_ms: int | None, per_task: int, ready: int, live: int
) -> None:
    size = batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
    assert 0 <= size <= min(16, ready)
    if held == 0:
        assert size >= 1


def test_every_status_has_a_place() -> None:
    assert {str(s) for s in JobStatus} >= {"syncing", "pending", "running", "holding", "cancelling"}


@pytest.mark.parametrize(
    ("state", "seen", "silent", "late", "owns", "verdict"),
    [
        ("starting", "unknown", -1, -1, False, "keep"),
        ("starting", "running", -1, 1, False, "end"),
        ("rendering", "running", -1, 99, True, "keep"),
        ("rendering", "running", 1, 99, True, "lose"),
        ("rendering", "unknown", -1, 99, True, "keep"),
        ("rendering", "gone", -1, -1, True, "end"),
        ("ready", "running", 1, -1, False, "keep"),
        ("ready", "running", 1, 1, False, "lose"),
        ("idle", "running", 1, 1, False, "lose"),
        ("lost", "running", 1, 1, False, "stop"),
        ("lost", "running", 1, 1, True, "keep"),
        ("lost", "unknown", 60, 1, True, "keep"),
        ("lost", "unknown", 61, 1, True, "give_up"),
        ("lost", "running", -5, 1, True, "keep"),
        ("lost", "gone", 1, 1, True, "end"),
        ("ended", "running", 1, 1, False, "keep"),
    ],
)
def test_a_session_is_judged(state: str, seen: Any, silent: int, late: int, owns: bool, verdict: str) -> None:
    found = judge_session(
        SessionState(state), seen, silent_ms=silent, deadline_ms=late, owns=owns, give_up_ms=60
    )
    assert found == verdict


def test_a_session_comes_back_only_from_lost_and_from_its_end_never() -> None:
    state, event = SessionState, SessionEvent
    assert session_after(state.RENDERING, event.LEASE_EXPIRED) is state.LOST
    assert session_after(state.LOST, event.LATE_CALL) is state.RENDERING
    assert session_after(state.LOST, event.GONE) is state.ENDED
    for impossible in (event.HELLO, event.HANDED_OUT, event.OUT_OF_WORK, event.LATE_CALL, event.GONE):
        with pytest.raises(rules.Refused):
            session_after(state.ENDED, impossible)
    with pytest.raises(rules.Refused):
        session_after(state.LOST, event.HANDED_OUT)
