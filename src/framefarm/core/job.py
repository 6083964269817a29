"""The states of a job, and the rules of its holds, scout gate and cancel. Drawn in docs/states.md.

Pure: `(job's facts, action) → change`. `server/jobs/state.py` writes the results to the database. Some hot
paths make a transition in one SQL statement; a property test compares those with this module.

The states of tasks' attempts are in `task_outcomes.py`, those of sessions in `session_lease.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class JobStatus(StrEnum):
    SYNCING = "syncing"
    PENDING = "pending"
    RUNNING = "running"
    HOLDING = "holding"
    CANCELLING = "cancelling"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED})


class TaskStatus(StrEnum):
    WAITING = "waiting"
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


Hold = Literal["user", "budget", "rule", "dependency"]
LIFTED_BY_UNHOLD = frozenset({"user", "rule", "dependency"})


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Facts from which a job's status is computed.

    `pending`, `running`, `success`, `failures` and `preempted` count tasks that were assigned at least once,
    by status; `next` is the number of the first task that was never assigned.
    """

    next: int
    task_count: int | None
    """None until the scene's frames are known."""
    scout_count: int
    holds: frozenset[str]
    gate_open: bool
    missing: int
    """Inputs not uploaded yet."""
    scene_read: bool
    depends_left: int
    """Dependencies that have not succeeded yet."""
    cancel_asked: bool
    failed: bool
    """The whole job failed (for example, an unreadable scene); its running attempts are being stopped."""
    pending: int
    running: int
    success: int
    failures: int
    preempted: int
    scouts_ended: int
    unpublished: int
    """Committed files not at the output destination yet."""

    @property
    def untouched(self) -> int:
        """Number of tasks that were never assigned."""
        return 0 if self.task_count is None else self.task_count - self.next

    @property
    def scouts_closed(self) -> bool:
        """Whether all scouts have ended, the gate is closed, and tasks wait behind it."""
        return (
            self.scout_count > 0
            and not self.gate_open
            and self.scouts_ended == self.scout_count
            and self.task_count is not None
            and self.task_count > self.scout_count
        )

    @property
    def limit(self) -> int:
        """First task number that the scout gate keeps back; `task_count` if it keeps none back."""
        if self.task_count is None:
            return 0
        return self.task_count if self.gate_open or self.scout_count == 0 else self.scout_count

    @property
    def may_start(self) -> bool:
        """Whether tasks of the job may be assigned now."""
        return (
            self.scene_read
            and not self.holds
            and not self.missing
            and not self.depends_left
            and not self.cancel_asked
            and not self.failed
            and self.task_count is not None
        )

    @property
    def ready(self) -> int:
        """Number of tasks that could be assigned now."""
        return self.pending + max(0, self.limit - self.next) if self.may_start else 0


def job_status(job: JobFacts) -> JobStatus:
    """Status of a job, computed from its facts. No other code decides it."""
    if job.cancel_asked:
        return JobStatus.CANCELLING if job.running or job.unpublished else JobStatus.CANCELLED
    if job.failed:
        return JobStatus.RUNNING if job.running else JobStatus.FAILED
    if job.task_count is not None and job.untouched == 0 and not job.pending and not job.running:
        if job.failures or job.preempted:
            return JobStatus.FAILED
        if not job.unpublished:
            return JobStatus.SUCCESS
        return JobStatus.RUNNING
    if job.holds or (job.scouts_closed and not job.pending and not job.running):
        return JobStatus.HOLDING
    if job.missing:
        return JobStatus.SYNCING
    if job.running or job.success or job.failures or job.preempted:
        return JobStatus.RUNNING
    return JobStatus.PENDING


def hold_reasons(job: JobFacts) -> list[str]:
    """The job's holds, sorted, then `scouts` if its gate waits for a person."""
    reasons = sorted(job.holds)
    if job.scouts_closed:
        reasons.append("scouts")
    return reasons


def untouched_status(job: JobFacts, number: int) -> TaskStatus:
    """Status of task `number`, which was never assigned."""
    if job.cancel_asked or job.failed:
        return TaskStatus.CANCELLED
    if not job.may_start or number >= job.limit:
        return TaskStatus.WAITING
    return TaskStatus.PENDING


class Refused(Exception):
    """An action that the state forbids. The text names the state and the allowed actions."""


@dataclass(frozen=True, slots=True)
class Change:
    """Effect of an action on a job.

    `cancel`: the job is cancelled. `stop`: its sessions stop at once; otherwise they finish the frame in
    work.
    """

    holds: frozenset[str]
    gate_open: bool
    cancel: bool = False
    stop: bool = False


def hold(job: JobFacts, *, drain: bool = True, by: Hold = "user") -> Change:
    """Add a hold. With `drain`, frames in work are finished; without it, they are stopped.

    Raises Refused for a job that has ended or is being cancelled.
    """
    status = job_status(job)
    if status in {JobStatus.SUCCESS, JobStatus.FAILED}:
        raise Refused(f"The job is {status}; only an unfinished job can be held.")
    if status in {JobStatus.CANCELLED, JobStatus.CANCELLING}:
        raise Refused(f"The job is {status}; it cannot be held any more.")
    return Change(job.holds | {by}, job.gate_open, stop=not drain)


def lift(job: JobFacts, hold: Hold) -> Change:
    """Remove one hold whose reason has passed; other holds stay."""
    return Change(job.holds - {hold}, job.gate_open)


def unhold(job: JobFacts) -> Change:
    """Remove the holds that a person may lift; if the job has none, open the scout gate.

    Raises Refused for a job that has ended, is being cancelled, or is held by a budget.
    """
    status = job_status(job)
    if status in {JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.CANCELLING}:
        raise Refused(f"The job is {status}; there is nothing to unhold.")
    if "budget" in job.holds:
        raise Refused("A budget holds this job: raise or remove the budget, then the job goes on.")
    if job.holds:
        return Change(job.holds - LIFTED_BY_UNHOLD, job.gate_open)
    return Change(job.holds, True)


def cancel(job: JobFacts) -> Change:
    """Cancel the job and stop its sessions. A cancelled job may be cancelled again, without effect.

    Raises Refused for a job that succeeded or failed.
    """
    status = job_status(job)
    if status in {JobStatus.SUCCESS, JobStatus.FAILED}:
        raise Refused(f"The job is {status}; only an unfinished job can be cancelled.")
    return Change(job.holds, job.gate_open, cancel=True, stop=True)
