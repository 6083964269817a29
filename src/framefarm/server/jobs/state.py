"""The narrow row that says where a job stands: locked, changed in memory, written back once.

Whoever changes a job's state locks this row first, so each change is wholly before or after every other.
Status, events and what follows from an end are settled in `save`, nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import NotFound
from framefarm.core.job import FINISHED, JobFacts, JobStatus, TaskStatus, hold_reasons, job_status
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import events, job_dependencies, job_state
from framefarm.server.metrics import FRAMES
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


@dataclass
class JobState:
    """A locked row of `job_state` and what is to be written with it. Attributes are its columns."""

    values: dict[str, Any]
    before: dict[str, Any]
    pending_events: list[dict[str, Any]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[name] = value

    def add(self, name: str, number: float = 1) -> None:
        self.values[name] += number

    @property
    def facts(self) -> JobFacts:
        return facts(self.values)

    def move(self, number: int, old: str | None, new: str) -> None:
        """Count task `number` from one status to another; None: it had no row."""
        self.move_many(1, old, new, scouts=number < self.values["scout_count"])

    def move_many(self, count: int, old: str | None, new: str, *, scouts: bool) -> None:
        """Count so many tasks, which are all scouts or none, from one status to another."""
        if old is not None:
            self.values[ROWS[TaskStatus(old)]] -= count
            if scouts and old in ENDED_TASK:
                self.values["scouts_ended"] -= count
        self.values[ROWS[TaskStatus(new)]] += count
        if scouts and new in ENDED_TASK:
            self.values["scouts_ended"] += count

    def emit(self, tx: Tx, actor: str, kind: str, data: dict[str, Any]) -> None:
        """Add a row to the job's events; written by `save`."""
        self.values["event_number"] += 1
        self.pending_events.append(
            {
                "account_id": self.values["account_id"],
                "job_id": self.values["job_id"],
                "number": self.values["event_number"],
                "at_ms": tx.now_ms,
                "actor": actor,
                "type": kind,
                "data": data,
            }
        )


def facts(row: Any) -> JobFacts:
    """The facts that `core.job` judges, from a row (or mapping) of `job_state`."""
    return JobFacts(
        next=row["next"],
        task_count=row["task_count"],
        scout_count=row["scout_count"],
        holds=frozenset(filter(None, row["holds"].split(","))),
        gate_open=row["gate_open"],
        missing=row["missing"],
        scene_read=row["scene_read"],
        depends_left=row["depends_left"],
        cancel_asked=row["cancel_ms"] is not None,
        failed=row["failed_cause"] is not None,
        pending=row["rows_pending"],
        running=row["rows_running"],
        success=row["rows_success"],
        failures=row["rows_failed"],
        preempted=row["rows_preempted"],
        scouts_ended=row["scouts_ended"],
        unpublished=row["unpublished"],
    )


_LOCK = farmwide(sa.select(job_state)).where(job_state.c.job_id == sa.bindparam("job")).with_for_update()


def lock(tx: Tx, job_id: str) -> JobState:
    """Lock a job's row and read it. Raises NotFound."""
    row = tx.conn.execute(_LOCK, {"job": job_id}).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return JobState(dict(row), dict(row))


@lru_cache(maxsize=256)
def _update(names: tuple[str, ...]) -> sa.Update:
    statement = farmwide(sa.update(job_state)).where(job_state.c.job_id == sa.bindparam("job"))
    return statement.values({n: sa.bindparam(n) for n in names})


def save(tx: Tx, state: JobState, actor: str = "system") -> None:
    """Settle the status, write what changed and its events, and do what follows from an end."""
    now = state.facts
    status = job_status(now)
    changed = status != state.before["status"]
    if changed:
        state["status"] = str(status)
        state["status_since_ms"] = tx.now_ms
        if status is JobStatus.RUNNING and state["started_ms"] is None:
            state["started_ms"] = tx.now_ms
        state["ended_ms"] = tx.now_ms if status in FINISHED else None
        data: dict[str, Any] = {"status": str(status), "was": state.before["status"]}
        if reasons := hold_reasons(now):
            data["hold_reasons"] = reasons
        if state["failed_message"]:
            data["message"] = state["failed_message"]
        state.emit(tx, actor, "job.status", data)
    changes = {k: v for k, v in state.values.items() if v != state.before[k]}
    if changes:
        tx.conn.execute(_update(tuple(changes)), changes | {"job": state["job_id"]})
    if state.pending_events:
        tx.conn.execute(sa.insert(events), state.pending_events)
        tx.wake("events")
        if frames := sum(e["type"] == "frame.done" for e in state.pending_events):
            tx.after_commit(lambda: FRAMES.inc(frames))
        state.pending_events.clear()
    state.before = dict(state.values)
    if changed and status in FINISHED:
        tx.publish(JobFinished(state["account_id"], state["job_id"]))
        _tell_dependents(tx, state["job_id"], success=status is JobStatus.SUCCESS)


def add_hold(state: JobState, hold: str) -> None:
    state["holds"] = ",".join(sorted(state.facts.holds | {hold}))


def drop_hold(state: JobState, hold: str) -> None:
    state["holds"] = ",".join(sorted(state.facts.holds - {hold}))


def _waits_for_a_failed_one(tx: Tx, job_id: str) -> bool:
    ended = [str(status) for status in FINISHED - {JobStatus.SUCCESS}]
    query = farmwide(sa.select(job_dependencies.c.job_id)).where(job_dependencies.c.job_id == job_id)
    other = job_state.c.job_id == job_dependencies.c.depends_on
    found = query.join(job_state, other).where(job_state.c.status.in_(ended))
    return tx.conn.execute(found.limit(1)).first() is not None


def _tell_dependents(tx: Tx, job_id: str, *, success: bool) -> None:
    """A job that others wait for has ended: count it off, or hold them. One that failed before, was retried
    and succeeds holds nobody any more."""
    waiting = farmwide(sa.select(job_dependencies.c.job_id)).where(job_dependencies.c.depends_on == job_id)
    for dependent in tx.conn.execute(waiting.order_by(job_dependencies.c.job_id)).scalars().all():
        state = lock(tx, dependent)
        if JobStatus(state["status"]) in FINISHED:
            continue
        if success:
            state.add("depends_left", -1)
            row = (job_dependencies.c.job_id == dependent) & (job_dependencies.c.depends_on == job_id)
            tx.conn.execute(farmwide(sa.delete(job_dependencies)).where(row))
            if "dependency" in state.facts.holds and not _waits_for_a_failed_one(tx, dependent):
                drop_hold(state, "dependency")
        else:
            add_hold(state, "dependency")
        save(tx, state)
