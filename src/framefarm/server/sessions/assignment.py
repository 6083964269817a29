"""Assignment of tasks to sessions, under the job's lock, by the process that answers the session's call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import sqlalchemy as sa

from framefarm.core.frames import FrameSet
from framefarm.core.job import JobFacts, TaskStatus
from framefarm.core.session_lease import SessionState
from framefarm.core.task_assignment import batch_size
from framefarm.core.task_plan import TaskPlan
from framefarm.protocol.node import DesiredState, TaskOrder
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs import task_rows
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import tasks
from framefarm.server.jobs.task_plans import job_terms_of
from framefarm.server.rows import AttemptRow, SessionRow, TaskRow
from framefarm.server.sessions.ownership import displace
from framefarm.server.sessions.tables import attempts, frames, sessions
from framefarm.server.tenancy import farmwide

_OPEN = farmwide(
    sa.select(attempts.c.id, attempts.c.task_number, attempts.c.frames, attempts.c.revision)
    .where(attempts.c.session_id == sa.bindparam("session"), attempts.c.outcome.is_(None))
    .order_by(attempts.c.assigned_ms, attempts.c.task_number)
)
_LIVE = farmwide(sa.select(sa.func.count()).select_from(sessions)).where(
    sessions.c.job_id == sa.bindparam("job"), ~sessions.c.ended
)

_ASSIGNED = (
    farmwide(sa.update(sessions))
    .where(sessions.c.id == sa.bindparam("session"))
    .values(version=sa.bindparam("new_version"), state=SessionState.RENDERING, idle_since_ms=None)
)


class OpenAttempt(Protocol):
    """An attempt that has not ended: the part of its row that the desired state shows."""

    id: str
    task_number: int
    frames: str
    revision: int


@dataclass(slots=True)
class _OpenRow:
    id: str
    task_number: int
    frames: str
    revision: int


def open_attempts(tx: Tx, session_id: str) -> Sequence[OpenAttempt]:
    """The session's attempts that have not ended, in order of assignment."""
    return tx.rows(_OpenRow, _OPEN, {"session": session_id})


def desired(
    session: SessionRow, facts: JobFacts, held: Sequence[OpenAttempt], lease_seconds: float, now_ms: int
) -> DesiredState:
    """The session's desired state. `held`: its open attempts; `now_ms`: the time of the transaction."""
    until_ms = session.preempt_ms
    to_render = [] if facts.holds or session.cancel or until_ms is not None else held
    return DesiredState(
        version=session.version,
        tasks=[
            TaskOrder(
                attempt=a.id,
                number=a.task_number,
                frames=list(FrameSet.from_text(a.frames)),
                revision=a.revision,
            )
            for a in to_render
        ],
        drain=session.drain,
        cancel=session.cancel,
        lease_seconds=lease_seconds,
        preempt_seconds=None if until_ms is None else max(0.0, (until_ms - now_ms) / 1000),
    )


def assign_tasks(
    tx: Tx, session: SessionRow, state: JobState, held: Sequence[OpenAttempt]
) -> Sequence[OpenAttempt]:
    """Give the session more tasks if it should have more; returns all its open attempts."""
    ready = state.facts.ready
    if not ready or session.drain or session.cancel:
        return held
    job_id = session.job_id
    terms = job_terms_of(tx, job_id)
    plan = terms.plan
    scouting = state.next < state.scout_count
    count = batch_size(
        held=len(held),
        frame_ms=state.frame_ms,
        frames_per_task=1 if scouting else terms.chunk_size,
        ready=ready,
        live_sessions=tx.conn.execute(_LIVE, {"job": job_id}).scalar_one(),
    )
    if count <= 0:
        return held
    assigned = _assign_returned(tx, session, state, plan, count) if state.rows_pending else []
    first, last = state.next, min(state.facts.limit, state.next + count - len(assigned))
    if last > first:
        new = [
            _attempt(tx, session, n, FrameSet.of(plan.frames_of(n)).to_text(), 0) for n in range(first, last)
        ]
        task_rows.insert_running(tx, job_id, [(a.task_number, a.id) for a in new])
        state.next = last
        for a in new:
            state.move(a.task_number, None, TaskStatus.RUNNING)
        assigned += new
    if not assigned:
        return held
    tx.conn.execute(sa.insert(attempts), [asdict(attempt) for attempt in assigned])
    session.version += 1
    session.state = SessionState.RENDERING
    tx.conn.execute(_ASSIGNED, {"session": session.id, "new_version": session.version})
    return [*held, *assigned]


def _assign_returned(
    tx: Tx, session: SessionRow, state: JobState, plan: TaskPlan, most: int
) -> list[AttemptRow]:
    """Assign up to `most` tasks that came back; the attempt gets only the frames that are missing."""
    due = sa.or_(tasks.c.not_before_ms.is_(None), tasks.c.not_before_ms <= tx.now_ms)
    query = sa.select(tasks).where(
        tasks.c.job_id == session.job_id, tasks.c.status == TaskStatus.PENDING, due
    )
    assigned = []
    for task in tx.rows(TaskRow, query.order_by(tasks.c.number).limit(most)):
        number = task.number
        due_frames = FrameSet.from_text(task.redo) if task.redo else FrameSet.of(plan.frames_of(number))
        missing = due_frames.difference(committed(tx, session.job_id, number, task.revision))
        lost = task.attempt_id is not None and displace(tx, task.attempt_id)
        attempt = _attempt(tx, session, number, missing.to_text(), task.revision)
        change = {
            "status": TaskStatus.RUNNING,
            "attempt_id": attempt.id,
            "attempt_count": task.attempt_count + 1,
            "losses": task.losses + lost,
        }
        task_rows.change(tx, session.job_id, number, change)
        state.move(number, TaskStatus.PENDING, TaskStatus.RUNNING)
        assigned.append(attempt)
    return assigned


def committed(tx: Tx, job_id: str, number: int, revision: int) -> FrameSet:
    """The task's frames that are committed at `revision` or later."""
    query = sa.select(frames.c.frame).where(
        frames.c.job_id == job_id, frames.c.task_number == number, frames.c.revision >= revision
    )
    return FrameSet.of(sorted(set(tx.conn.execute(query).scalars())))


def _attempt(tx: Tx, session: SessionRow, number: int, frame_text: str, revision: int) -> AttemptRow:
    return AttemptRow(
        id=new_id("att"),
        account_id=session.account_id,
        job_id=session.job_id,
        task_number=number,
        session_id=session.id,
        node=session.node,
        zone=session.zone,
        instance_type_id=session.instance_type_id,
        preemptible=session.preemptible,
        price_micros=session.price_micros,
        frames=frame_text,
        revision=revision,
        assigned_ms=tx.now_ms,
        started_ms=None,
        started_mono_ms=None,
        saved_mono_ms=None,
        ended_ms=None,
        outcome=None,
        cause=None,
        message=None,
        frames_done=0,
        billed_ms=0,
        cost_micros=0,
        peak_memory_bytes=None,
        charge_id=None,
    )
