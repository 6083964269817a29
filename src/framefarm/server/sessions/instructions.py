"""Instructions to sessions: every change of a running session's desired state.

An instruction is state, not a message: the session's row changes, its `version` rises, and the call that the
API holds open for the runner is answered at once.
"""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.job import Change, TaskStatus
from framefarm.server.database import Tx
from framefarm.server.jobs import task_rows
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import tasks
from framefarm.server.sessions import ownership
from framefarm.server.sessions.tables import sessions
from framefarm.server.tenancy import farmwide


def instruct(tx: Tx, session_id: str, **change: object) -> None:
    """Change columns of one session's row, raise its version and wake its runner's call."""
    values = {"version": sessions.c.version + 1, **change}
    tx.conn.execute(farmwide(sa.update(sessions)).where(sessions.c.id == session_id).values(values))
    tx.wake(f"session:{session_id}")


def instruct_job(tx: Tx, job_id: str, **change: object) -> None:
    """Change columns of all live sessions of a job, raise their versions, and wake calls and dispatcher."""
    live = (sessions.c.job_id == job_id) & ~sessions.c.ended
    values = {"version": sessions.c.version + 1, **change}
    tx.conn.execute(farmwide(sa.update(sessions)).where(live).values(values))
    tx.wake(f"job:{job_id}", "dispatch")


def carry_out(tx: Tx, state: JobState, change: Change) -> None:
    """Apply a decided hold, unhold or cancel to a locked job and its sessions. The caller saves `state`."""
    running = state.facts.running
    state.holds = ",".join(sorted(change.holds))
    state.gate_open = change.gate_open
    if change.cancel and state.cancel_ms is None:
        state.cancel_ms = tx.now_ms
        cancel_pending(tx, state, "The job was cancelled while this machine did not answer.")
    instruct_job(tx, state.job_id, **({"cancel": True} if change.stop and running else {}))


def cancel_pending(tx: Tx, state: JobState, message: str) -> None:
    """Cancel the job's pending tasks. Running tasks end when their session reports it.

    `message` goes to attempts of silent sessions that still owned one of these tasks.
    """
    pending = (tasks.c.job_id == state.job_id) & (tasks.c.status == TaskStatus.PENDING)
    ownership.displace_waiting(tx, state.job_id, message)
    scouts = pending & (tasks.c.number < state.scout_count)
    state.scouts_ended += tx.conn.execute(sa.select(sa.func.count()).where(scouts)).scalar_one()
    count = task_rows.cancel_pending(tx, state.job_id)
    state.rows_pending -= count
    state.rows_cancelled += count
