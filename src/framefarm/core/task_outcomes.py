"""A task after its attempt has ended: `(task, outcome) → task`. Drawn in docs/states.md.

Pure. When retries end early although some remain: `retry_policy.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from framefarm.core.job import TaskStatus

FARM_LOSSES = 20
"""Losses through the farm's fault after which a task fails, so that a person checks it."""


class Outcome(StrEnum):
    SUCCESS = "success"
    FAILED = "failed"
    PREEMPTED = "preempted"
    LOST = "lost"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task's status, its counted failures, and the job's limits on them.

    `preemptible_retries` limits `preemptions`, `task_retries` limits `failures`, FARM_LOSSES limits `losses`.
    """

    status: TaskStatus
    preemptions: int
    failures: int
    losses: int
    preemptible_retries: int
    task_retries: int


def outcome_of(reported: Outcome, *, preempted: bool, withdrawn: bool) -> Outcome:
    """Outcome that the farm records for an attempt whose runner reported `reported`.

    `preempted`: the session is being preempted; its given up or lost attempts then count as preempted.
    `withdrawn`: a person's hold took the task back; such an attempt stays cancelled.
    """
    if preempted and (reported is Outcome.LOST or (reported is Outcome.CANCELLED and not withdrawn)):
        return Outcome.PREEMPTED
    return reported


def task_after(
    task: TaskFacts,
    outcome: Outcome,
    *,
    committed_frames: int,
    given_back: bool = False,
    preemptible: bool = True,
) -> TaskFacts:
    """The task after its attempt ended with `outcome`.

    `committed_frames`: frames that the attempt committed. `given_back`: the farm withdrew the task, so the
    cancelled attempt counts against no limit. Preemptions, failures and losses are counted apart. A preempted
    attempt that committed a frame uses no retry, unless `preemptible_retries` is 0. On-demand work
    (`preemptible` false) that loses its node to the provider counts as a loss.
    """
    if outcome is Outcome.SUCCESS:
        return replace(task, status=TaskStatus.SUCCESS)
    if outcome is Outcome.CANCELLED:
        return replace(task, status=TaskStatus.PENDING if given_back else TaskStatus.CANCELLED)
    if outcome in {Outcome.FAILED, Outcome.TIMED_OUT}:
        failures = task.failures + 1
        over = failures > task.task_retries
        return replace(task, failures=failures, status=TaskStatus.FAILED if over else TaskStatus.PENDING)
    if outcome is Outcome.PREEMPTED and not preemptible and committed_frames:
        return replace(task, status=TaskStatus.PENDING)
    if outcome is Outcome.PREEMPTED and preemptible:
        if task.preemptible_retries == 0:
            return replace(task, preemptions=task.preemptions + 1, status=TaskStatus.PREEMPTED)
        if committed_frames:
            return replace(task, status=TaskStatus.PENDING)
        preemptions = task.preemptions + 1
        over = preemptions > task.preemptible_retries
        return replace(
            task, preemptions=preemptions, status=TaskStatus.PREEMPTED if over else TaskStatus.PENDING
        )
    losses = task.losses + 1
    over = losses > FARM_LOSSES
    return replace(task, losses=losses, status=TaskStatus.FAILED if over else TaskStatus.PENDING)
