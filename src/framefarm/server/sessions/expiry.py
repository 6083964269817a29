"""Sessions that fall silent, and sessions that are gone. Only the leader calls these.

Each locks the job first and then reads the session again: a call of its runner may have come between.
"""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.job import SessionEvent, SessionState, TaskFacts, TaskStatus, reassignable, session_after
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.state import JobState
from framefarm.server.rows import SessionRow
from framefarm.server.sessions import ownership
from framefarm.server.sessions.reports import Reporter, end_session
from framefarm.server.sessions.tables import leases, sessions
from framefarm.server.tenancy import farmwide

SILENT = "The machine did not answer any more."


def expire(tx: Tx, session_id: str) -> bool:
    """Its lease has run out: its tasks may go to others, it keeps those that nobody takes. False if it has
    renewed its lease after all."""
    session, state = _locked(tx, session_id)
    if session.state in {SessionState.STARTING, SessionState.LOST, SessionState.ENDED}:
        return False
    lease = sa.select(leases.c.expires_ms).where(leases.c.session_id == session_id)
    if tx.conn.execute(lease).scalar_one() >= tx.now_ms:
        return False
    mine = Reporter(tx, session, state)
    waiting = []
    cancel_asked = state.facts.cancel_asked or state.facts.failed
    for attempt in list(mine.own.values()):
        task = TaskFacts(attempt.task_status, 0, 0, attempt.losses, 0, 0)
        if reassignable(task, cancel_asked=cancel_asked):
            state.move(attempt.task_number, TaskStatus.RUNNING, TaskStatus.PENDING)
            waiting.append(attempt.task_number)
            del mine.own[attempt.id]
    mine.forfeit(SILENT)
    mine.apply([])
    ownership.set_status(tx, state.job_id, waiting, TaskStatus.PENDING)
    after = session_after(session.state, SessionEvent.LEASE_EXPIRED)
    _change(tx, session_id, state=after, version=session.version + 1, idle_since_ms=None)
    state.emit(tx, "system", "session.lost", {"session": session_id, "tasks": waiting})
    job_states.save(tx, state)
    return True


def give_up(tx: Tx, session_id: str) -> None:
    """A lost session was silent for longer than any runner works on alone: it owns nothing any more."""
    session, state = _locked(tx, session_id)
    if session.state is not SessionState.LOST or not ownership.take_back(tx, session, state):
        return
    mine = Reporter(tx, session, state)
    mine.forfeit(SILENT)
    mine.apply([])
    _change(tx, session_id, state=SessionState.LOST)
    job_states.save(tx, state)


def lose_session(tx: Tx, session_id: str, reason: str, message: str) -> None:
    """The session is gone for good: what it still owned goes back as the farm's loss."""
    session, state = _locked(tx, session_id)
    if session.ended:
        return
    if session.state is SessionState.LOST:
        ownership.take_back(tx, session, state)
    end_session(tx, session, state, reason, message)
    job_states.save(tx, state)


def _locked(tx: Tx, session_id: str) -> tuple[SessionRow, JobState]:
    job_id = farmwide(sa.select(sessions.c.job_id)).where(sessions.c.id == session_id)
    state = job_states.lock(tx, tx.conn.execute(job_id).scalar_one())
    query = farmwide(sa.select(sessions)).where(sessions.c.id == session_id)
    return tx.row(SessionRow, query), state


def _change(tx: Tx, session_id: str, **values: object) -> None:
    tx.conn.execute(farmwide(sa.update(sessions)).where(sessions.c.id == session_id).values(values))
