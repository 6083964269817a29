"""A job's row of `job_state`: its status and counts, locked, changed in memory and written back once.

A change of a job's state locks this row first, so each change is wholly before or after every other. Only
`save` sets the status, writes events, and reacts to a job's end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import sqlalchemy as sa

from framefarm.core.errors import NotFound
from framefarm.core.job import FINISHED, JobFacts, JobStatus, TaskStatus, hold_reasons, job_status
from framefarm.server.database import Tx
from framefarm.server.jobs import dependencies
from framefarm.server.jobs.tables import events, job_state
from framefarm.server.metrics import FRAMES
from framefarm.server.rows import JobStateRow
from framefarm.server.tenancy import farmwide

COLUMNS = tuple(c.name for c in job_state.columns)
ROWS = {
    TaskStatus.PENDING: "rows_pending",
    TaskStatus.RUNNING: "rows_running",
    TaskStatus.SUCCESS: "rows_success",
    TaskStatus.FAILED: "rows_failed",
    TaskStatus.PREEMPTED: "rows_preempted",
    TaskStatus.CANCELLED: "rows_cancelled",
}
ENDED_TASK = frozenset({TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.PREEMPTED, TaskStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A job reached a final status: published by `save`, in its transaction."""

    account_id: str
    job_id: str


@dataclass(slots=True)
class JobState(JobStateRow):
    """A locked row of `job_state`, changed in memory, and the events to write with it."""

    before: dict[str, object] = field(init=False)
    """The columns as they are in the database."""
    pending_events: list[dict[str, object]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.before = self.columns()

    def columns(self) -> dict[str, object]:
        """The columns as they are in memory."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def facts(self) -> JobFacts:
        return facts(self)

    def move(self, number: int, old: TaskStatus | None, new: TaskStatus) -> None:
        """Count task `number` from one status to another; None: it had no row."""
        self.move_many(1, old, new, scouts=number < self.scout_count)

    def move_many(self, count: int, old: TaskStatus | None, new: TaskStatus, *, scouts: bool) -> None:
        """Count `count` tasks, all scouts or none, from one status to another."""
        if old is not None:
            self._count(old, -count, scouts)
        self._count(new, count, scouts)

    def _count(self, status: TaskStatus, count: int, scouts: bool) -> None:
        column = ROWS[status]
        setattr(self, column, getattr(self, column) + count)
        if scouts and status in ENDED_TASK:
            self.scouts_ended += count

    def emit(self, tx: Tx, actor: str, event: str, data: Mapping[str, object]) -> None:
        """Add a row to the job's events; written by `save`. `event`: its type, as frame.done."""
        self.event_number += 1
        self.pending_events.append(
            {
                "account_id": self.account_id,
                "job_id": self.job_id,
                "number": self.event_number,
                "at_ms": tx.now_ms,
                "actor": actor,
                "type": event,
                "data": dict(data),
            }
        )


def facts(row: JobStateRow) -> JobFacts:
    """The facts that `core.job` judges, from a row of `job_state`."""
    return JobFacts(
        next=row.next,
        task_count=row.task_count,
        scout_count=row.scout_count,
        holds=frozenset(filter(None, row.holds.split(","))),
        gate_open=row.gate_open,
        missing=row.missing,
        scene_read=row.scene_read,
        depends_left=row.depends_left,
        cancel_asked=row.cancel_ms is not None,
        failed=row.failed_cause is not None,
        pending=row.rows_pending,
        running=row.rows_running,
        success=row.rows_success,
        failures=row.rows_failed,
        preempted=row.rows_preempted,
        scouts_ended=row.scouts_ended,
        unpublished=row.unpublished,
    )


_LOCK = farmwide(sa.select(job_state)).where(job_state.c.job_id == sa.bindparam("job")).with_for_update()


def lock(tx: Tx, job_id: str) -> JobState:
    """Lock a job's row and read it. Raises NotFound."""
    state = tx.row_or_none(JobState, _LOCK, {"job": job_id})
    if state is None:
        raise NotFound(f"There is no job {job_id}.")
    return state


@lru_cache(maxsize=256)
def _update(names: tuple[str, ...]) -> sa.Update:
    statement = farmwide(sa.update(job_state)).where(job_state.c.job_id == sa.bindparam("job"))
    return statement.values({n: sa.bindparam(n) for n in names})


def save(tx: Tx, state: JobState, actor: str = "system") -> None:
    """Set the job's status, write its changes and events, and react to its end. `actor`: for the events."""
    now = state.facts
    status = job_status(now)
    changed = status != state.before["status"]
    if changed:
        state.status = status
        state.status_since_ms = tx.now_ms
        if status is JobStatus.RUNNING and state.started_ms is None:
            state.started_ms = tx.now_ms
        state.ended_ms = tx.now_ms if status in FINISHED else None
        data: dict[str, object] = {"status": str(status), "was": str(state.before["status"])}
        if reasons := hold_reasons(now):
            data["hold_reasons"] = reasons
        if state.failed_message:
            data["message"] = state.failed_message
        state.emit(tx, actor, "job.status", data)
    columns = state.columns()
    changes = {name: value for name, value in columns.items() if value != state.before[name]}
    if changes:
        tx.conn.execute(_update(tuple(changes)), changes | {"job": state.job_id})
    if state.pending_events:
        tx.conn.execute(sa.insert(events), state.pending_events)
        tx.wake("events")
        if frames := sum(event["type"] == "frame.done" for event in state.pending_events):
            tx.after_commit(lambda: FRAMES.inc(frames))
        state.pending_events.clear()
    state.before = columns
    if changed and status in FINISHED:
        tx.publish(JobFinished(state.account_id, state.job_id))
        _update_dependents(tx, state.job_id, success=status is JobStatus.SUCCESS)


def add_hold(state: JobState, hold: str) -> None:
    """Add a reason to hold the job."""
    state.holds = ",".join(sorted(state.facts.holds | {hold}))


def drop_hold(state: JobState, hold: str) -> None:
    """Remove a reason to hold the job, if it is there."""
    state.holds = ",".join(sorted(state.facts.holds - {hold}))


def _update_dependents(tx: Tx, job_id: str, *, success: bool) -> None:
    """After a job's end: its success counts for the jobs that wait for it, any other end holds them.

    A job that failed, was retried and succeeds also ends the hold that it caused.
    """
    for dependent in dependencies.dependents_of(tx, job_id):
        state = lock(tx, dependent)
        if state.status in FINISHED:
            continue
        if success:
            state.depends_left -= 1
            dependencies.remove(tx, dependent, job_id)
            if "dependency" in state.facts.holds and not dependencies.has_failed_one(tx, dependent):
                drop_hold(state, "dependency")
        else:
            add_hold(state, "dependency")
        save(tx, state)
