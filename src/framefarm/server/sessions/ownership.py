"""The fence: which attempts still own their task. Every function here needs the job's lock.

A task whose session fell silent is `pending` and still names its attempt. If another session takes the task,
that attempt is lost; if its own session calls before that, it renders on.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.job import TaskStatus
from framefarm.core.session_lease import SessionEvent, session_after
from framefarm.core.task_outcomes import Outcome
from framefarm.server.database import Tx
from framefarm.server.jobs import task_rows
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import tasks
from framefarm.server.rows import SessionRow
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.tenancy import farmwide

OWN = (
    (tasks.c.job_id == attempts.c.job_id)
    & (tasks.c.number == attempts.c.task_number)
    & (tasks.c.attempt_id == attempts.c.id)
)
"""Joins an attempt to the task that it owns, by the task's key: a job may have a million of them."""
TAKEN_OVER = "The machine did not answer; another one took over what was missing."


@dataclass(frozen=True, slots=True)
class OwnedTask:
    """An open attempt and the task that it owns."""

    attempt_id: str
    task_number: int
    status: TaskStatus


def owned(tx: Tx, session_id: str) -> list[OwnedTask]:
    """The tasks that the session's open attempts own, in order of assignment."""
    columns = (attempts.c.id.label("attempt_id"), attempts.c.task_number, tasks.c.status)
    query = farmwide(sa.select(*columns).join(tasks, OWN)).where(
        attempts.c.session_id == session_id, attempts.c.outcome.is_(None)
    )
    return tx.rows(OwnedTask, query.order_by(attempts.c.assigned_ms, attempts.c.task_number))


def bring_back(tx: Tx, session: SessionRow, state: JobState) -> bool:
    """Bring back a lost session that called again, with the tasks that it owns. False if it owns none."""
    tasks_owned = owned(tx, session.id)
    if not tasks_owned:
        return False
    waiting = [row.task_number for row in tasks_owned if row.status is TaskStatus.PENDING]
    for number in waiting:
        state.move(number, TaskStatus.PENDING, TaskStatus.RUNNING)
    task_rows.set_status(tx, state.job_id, waiting, TaskStatus.RUNNING)
    session.state = session_after(session.state, SessionEvent.LATE_CALL)
    session.version += 1
    session.idle_since_ms = None
    change = {"state": session.state, "version": session.version, "idle_since_ms": None}
    tx.conn.execute(farmwide(sa.update(sessions)).where(sessions.c.id == session.id).values(change))
    return True


def displace(tx: Tx, attempt_id: str, message: str = TAKEN_OVER) -> bool:
    """End an attempt as lost, as another takes its task. False if it had ended before."""
    return _lose(tx, attempts.c.id == attempt_id, message) > 0


def displace_waiting(tx: Tx, job_id: str, message: str) -> None:
    """End the open attempts that still own one of the job's pending tasks as lost."""
    displace_owners(tx, (tasks.c.job_id == job_id) & (tasks.c.status == TaskStatus.PENDING), message)


def displace_owners(tx: Tx, which: sa.ColumnElement[bool], message: str = TAKEN_OVER) -> None:
    """End the open attempts that still own one of the tasks `which` as lost."""
    owners = sa.select(tasks.c.attempt_id).where(which, tasks.c.attempt_id.is_not(None))
    _lose(tx, attempts.c.id.in_(owners), message)


def _lose(tx: Tx, which: sa.ColumnElement[bool], message: str) -> int:
    change = {"outcome": Outcome.LOST, "ended_ms": tx.now_ms, "cause": "machine_lost", "message": message}
    statement = farmwide(sa.update(attempts)).where(which, attempts.c.outcome.is_(None)).values(change)
    return tx.conn.execute(statement).rowcount
