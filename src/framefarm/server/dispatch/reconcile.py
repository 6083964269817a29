"""Reconcile: the leader judges every session by what the engine observes and by its lease."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from framefarm.core.session_lease import Seen, SessionState, judge_session
from framefarm.server.database import Tx
from framefarm.server.engines.base import Observed
from framefarm.server.rows import SessionRow
from framefarm.server.sessions import expiry, ownership
from framefarm.server.sessions.tables import leases, sessions
from framefarm.server.settings import Settings

FARM_WIDE = "The leader judges the sessions of all accounts."
LOST_TEXT = "The machine's render process was lost."
Observations = dict[str, Observed] | None
"""Session → observation. None: the engine did not answer, so no session is taken for dead."""


@dataclass
class Reconciled:
    """Sessions that the engine must stop or forget, and slots that ended sessions still occupy."""

    stop: list[str] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    lingering: list[SessionRow] = field(default_factory=list)
    """Ended sessions whose runner the engine still observes: their slot is taken until it has ended."""


@dataclass(slots=True)
class LeasedSession(SessionRow):
    """A session that has not ended, with the end of its lease."""

    expires_ms: int


def judge_sessions(tx: Tx, settings: Settings, observed: Observations, led_since_ms: int) -> Reconciled:
    """Judge every session that has not ended, and change those that are lost or over.

    Sessions inserted before `led_since_ms` and unknown to the engine have never started.
    """
    result = Reconciled()
    query = sa.select(sessions, leases.c.expires_ms).join(leases, leases.c.session_id == sessions.c.id)
    rows = tx.rows(LeasedSession, query.where(~sessions.c.ended))
    for row in rows:
        _judge_session(tx, settings, row, observed, led_since_ms, result)
    known = {row.id for row in rows}
    running = []
    for session_id, seen in (observed or {}).items():
        if session_id not in known:
            if seen.state in {"exited", "lost"}:
                result.forget.append(session_id)
            else:
                running.append(session_id)
    result.stop += running
    if running:
        ended = sa.select(sessions).where(sessions.c.id.in_(running))
        result.lingering += tx.rows(SessionRow, ended)
    return result


def _judge_session(
    tx: Tx,
    settings: Settings,
    row: LeasedSession,
    observed: Observations,
    led_since_ms: int,
    result: Reconciled,
) -> None:
    session_id, state = row.id, row.state
    limit_ms = round(settings.starting_seconds * 1000)
    silent_ms = tx.now_ms - row.expires_ms
    verdict = judge_session(
        state,
        _seen(row, observed, led_since_ms),
        silent_ms=silent_ms,
        deadline_ms=tx.now_ms - (row.hello_ms or row.created_ms) - limit_ms,
        owns=state is SessionState.LOST and bool(ownership.owned(tx, session_id)),
        give_up_ms=round(settings.disconnected_budget_seconds * 1000),
    )
    if verdict == "end":
        seen = (observed or {}).get(session_id)
        if seen is not None and seen.state in {"exited", "lost"}:
            reason, text = seen.reason or "runner_lost", seen.reason or LOST_TEXT
            result.forget.append(session_id)
        elif state is SessionState.STARTING:
            reason, text = "not_started", "The machine did not start in time."
            result.stop.append(session_id)
            if seen is not None:
                result.lingering.append(row)
        else:
            reason, text = "runner_lost", LOST_TEXT
        expiry.lose_session(tx, session_id, reason, text)
    elif verdict == "lose":
        expiry.expire(tx, session_id)
    elif verdict == "give_up":
        expiry.give_up(tx, session_id)
        result.stop.append(session_id)
    elif verdict == "stop":
        result.stop.append(session_id)
    if verdict != "keep":
        tx.wake(f"job:{row.job_id}", f"session:{session_id}")


def _seen(row: LeasedSession, observed: Observations, led_since_ms: int) -> Seen:
    if observed is None:
        return "unknown"
    seen = observed.get(row.id)
    if seen is None:
        # The engine answers and does not know the session: gone, unless its start may still be in progress.
        never_started = row.state is SessionState.STARTING and row.created_ms < led_since_ms
        return "gone" if never_started or row.state is SessionState.LOST else "unknown"
    if seen.state in {"exited", "lost"}:
        return "gone"
    return "running" if seen.state == "running" else "unknown"
