"""Sessions that fall silent, and sessions that have died. Only the leader calls these functions.

Each locks the job first and then reads the session again: a call of its runner may have come meanwhile.
"""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.job import TaskStatus
from framefarm.core.session_lease import SessionEvent, SessionState, reassignable, session_after
from framefarm.core.task_outcomes import TaskFacts
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs import task_rows
from framefarm.server.jobs.state import JobState
from framefarm.server.rows import LeaseRow, SessionRow
from framefarm.server.sessions import ownership
from framefarm.server.sessions.session_work import SessionWork, end_session
from framefarm.server.sessions.tables import leases, sessions
from framefarm.server.tenancy import farmwide

SILENT = "The machine did not answer any more."


def expire(tx: Tx, session_id: str) -> bool:
    """Mark a session as lost whose lease has run out. Its tasks wait for others; it still owns those that no
    other session takes. False if it renewed its lease meanwhile."""
    session, state = _locked(tx, session_id)
    if session.state in {SessionState.STARTING, SessionState.LOST, SessionState.ENDED}:
        return False
    lease = tx.row(LeaseRow, sa.select(leases).where(leases.c.session_id == session_id))
    if lease.expires_ms >= tx.now_ms:
        return False
    work = SessionWork(tx, session, state)
    waiting = []
    cancel_asked = state.facts.cancel_asked or state.facts.failed
    for attempt in list(work.owned.values()):
        task = TaskFacts(attempt.task_status, 0, 0, attempt.losses, 0, 0)
        if reassignable(task, cancel_asked=cancel_asked):
            state.move(attempt.task_number, TaskStatus.RUNNING, TaskStatus.PENDING)
            waiting.append(attempt.task_number)
            del work.owned[attempt.id]
    work.return_all(SILENT)
    work.write()
    task_rows.set_status(tx, state.job_id, waiting, TaskStatus.PENDING)
    after = session_after(session.state, SessionEvent.LEASE_EXPIRED)
    _change(tx, session_id, state=after, version=session.version + 1, idle_since_ms=None)
    state.emit(tx, "system", "session.lost", {"session": session_id, "tasks": waiting})
    job_states.save(tx, state)
    return True


def give_up(tx: Tx, session_id: str) -> None:
    """End all attempts of a lost session that was silent for longer than a runner renders on alone."""
    session, state = _locked(tx, session_id)
    if session.state is not SessionState.LOST or not ownership.bring_back(tx, session, state):
        return
    work = SessionWork(tx, session, state)
    work.return_all(SILENT)
    work.write()
    _change(tx, session_id, state=SessionState.LOST)
    job_states.save(tx, state)


def lose_session(tx: Tx, session_id: str, reason: str, message: str) -> None:
    """End a session whose runner died. Tasks that it still owned go back, at the farm's cost.

    `reason`: a code for the session's row; `message`: one sentence for its attempts.
    """
    session, state = _locked(tx, session_id)
    if session.ended:
        return
    if session.state is SessionState.LOST:
        ownership.bring_back(tx, session, state)
    end_session(tx, session, state, reason, message)
    job_states.save(tx, state)


def _locked(tx: Tx, session_id: str) -> tuple[SessionRow, JobState]:
    job_id = farmwide(sa.select(sessions.c.job_id)).where(sessions.c.id == session_id)
    state = job_states.lock(tx, tx.conn.execute(job_id).scalar_one())
    query = farmwide(sa.select(sessions)).where(sessions.c.id == session_id)
    return tx.row(SessionRow, query), state


def _change(tx: Tx, session_id: str, **values: object) -> None:
    tx.conn.execute(farmwide(sa.update(sessions)).where(sessions.c.id == session_id).values(values))
