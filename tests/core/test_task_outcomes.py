"""Outcomes of attempts, and what becomes of their tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_job import RUNNING

from framefarm.core import task_outcomes
from framefarm.core.task_outcomes import Outcome, TaskFacts


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
        (replace(RUNNING, losses=task_outcomes.FARM_LOSSES), Outcome.LOST, 0, "failed"),
        (RUNNING, Outcome.CANCELLED, 0, "cancelled"),
    ],
)
def test_failures_preemptions_and_losses_are_counted_apart(
    task: TaskFacts, outcome: Outcome, committed: int, status: str
) -> None:
    assert task_outcomes.task_after(task, outcome, committed_frames=committed).status == status


@pytest.mark.parametrize("outcome", Outcome)
def test_in_a_preempted_session_lost_and_given_up_work_counts_as_preempted(outcome: Outcome) -> None:
    def seen(*, preempted: bool, withdrawn: bool) -> Outcome:
        return task_outcomes.outcome_of(outcome, preempted=preempted, withdrawn=withdrawn)

    assert seen(preempted=False, withdrawn=False) is outcome
    assert seen(preempted=False, withdrawn=True) is outcome
    taken = Outcome.PREEMPTED
    assert seen(preempted=True, withdrawn=False) is (
        taken if outcome in {Outcome.LOST, Outcome.CANCELLED} else outcome
    )
    assert seen(preempted=True, withdrawn=True) is (taken if outcome is Outcome.LOST else outcome)


def ended(task: TaskFacts, outcome: Outcome, committed: int = 0, **how: bool) -> tuple[str, int, int, int]:
    """The task's status, preemptions, failures and losses after one attempt."""
    after = task_outcomes.task_after(task, outcome, committed_frames=committed, **how)
    assert after.preemptible_retries == task.preemptible_retries
    assert after.task_retries == task.task_retries
    return after.status, after.preemptions, after.failures, after.losses


COUNTED = replace(RUNNING, preemptions=5, failures=6, losses=7, preemptible_retries=9, task_retries=9)


@pytest.mark.parametrize("committed", [0, 3])
@pytest.mark.parametrize(
    ("outcome", "how", "after"),
    [
        (Outcome.SUCCESS, {}, ("success", 5, 6, 7)),
        (Outcome.CANCELLED, {}, ("cancelled", 5, 6, 7)),
        (Outcome.CANCELLED, {"given_back": True}, ("pending", 5, 6, 7)),
        (Outcome.FAILED, {}, ("pending", 5, 7, 7)),
        (Outcome.FAILED, {"preemptible": False}, ("pending", 5, 7, 7)),
        (Outcome.TIMED_OUT, {}, ("pending", 5, 7, 7)),
        (Outcome.LOST, {}, ("pending", 5, 6, 8)),
        (Outcome.LOST, {"preemptible": False}, ("pending", 5, 6, 8)),
    ],
)
def test_each_outcome_spends_its_own_budget_whatever_was_committed(
    outcome: Outcome, how: dict[str, bool], after: tuple[str, int, int, int], committed: int
) -> None:
    assert ended(COUNTED, outcome, committed, **how) == after


@pytest.mark.parametrize(
    ("change", "committed", "preemptible", "after"),
    [
        ({}, 0, True, ("pending", 6, 6, 7)),
        ({}, 1, True, ("pending", 5, 6, 7)),
        ({}, 0, False, ("pending", 5, 6, 8)),
        ({}, 1, False, ("pending", 5, 6, 7)),
        ({"preemptible_retries": 6}, 0, True, ("pending", 6, 6, 7)),
        ({"preemptible_retries": 5}, 0, True, ("preempted", 6, 6, 7)),
        ({"preemptible_retries": 5}, 1, True, ("pending", 5, 6, 7)),
        ({"preemptible_retries": 0}, 0, True, ("preempted", 6, 6, 7)),
        ({"preemptible_retries": 0}, 1, True, ("preempted", 6, 6, 7)),
        ({"preemptible_retries": 0}, 1, False, ("pending", 5, 6, 7)),
        ({"preemptible_retries": 1}, 1, True, ("pending", 5, 6, 7)),
    ],
)
def test_preemption_is_free_for_an_attempt_with_a_committed_frame(
    change: dict[str, int], committed: int, preemptible: bool, after: tuple[str, int, int, int]
) -> None:
    task = replace(COUNTED, **change)
    assert ended(task, Outcome.PREEMPTED, committed, preemptible=preemptible) == after


def test_a_task_fails_after_more_failures_than_its_retries_or_more_than_20_losses() -> None:
    for outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        assert ended(replace(RUNNING, failures=1), outcome) == ("pending", 0, 2, 0)
        assert ended(replace(RUNNING, failures=2), outcome) == ("failed", 0, 3, 0)
    assert ended(replace(RUNNING, losses=19), Outcome.LOST) == ("pending", 0, 0, 20)
    assert ended(replace(RUNNING, losses=20), Outcome.LOST) == ("failed", 0, 0, 21)
