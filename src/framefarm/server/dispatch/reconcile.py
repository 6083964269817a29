"""What becomes of sessions: the leader holds what the engine sees and the leases against the database."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from framefarm.core.job import Seen, SessionState, judge
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.engines.base import Observed
from framefarm.server.rows import SessionRow
from framefarm.server.sessions import expiry, ownership
from framefarm.server.sessions.tables import leases, sessions
from framefarm.server.tenancy import farmwide

GONE = "The machine's render process was lost."
Observations = dict[str, Observed] | None
"""None: the engine did not answer. Then nothing is known of any session, and none is taken for dead."""


@dataclass
class Reconciled:
    """What the engine is to do, and what it still holds for sessions that are over here."""

    stop: list[str] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    lingering: list[SessionRow] = field(default_factory=list)
    """Ended sessions whose runner the engine still sees: their slot is taken until it is gone."""


@dataclass(slots=True)
class LeasedSession(SessionRow):
    """A session that has not ended, with the end of its lease."""

    expires_ms: int


def settle(tx: Tx, context: AppContext, observed: Observations, led_since_ms: int) -> Reconciled:
    """Judge every session. Those written before `led_since_ms` and unknown to the engine never started."""
    done = Reconciled()
    query = sa.select(sessions, leases.c.expires_ms).join(leases, leases.c.session_id == sessions.c.id)
    rows = tx.rows(LeasedSession, farmwide(query).where(~sessions.c.ended))
    for row in rows:
        _one(tx, context, row, observed, led_since_ms, done)
    known = {row.id for row in rows}
    running = []
    for session_id, seen in (observed or {}).items():
        if session_id not in known:
            if seen.state in {"exited", "lost"}:
                done.forget.append(session_id)
            else:
                running.append(session_id)
    done.stop += running
    if running:
        ended = farmwide(sa.select(sessions)).where(sessions.c.id.in_(running))
        done.lingering += tx.rows(SessionRow, ended)
    return done


def _one(
    tx: Tx,
    context: AppContext,
    row: LeasedSession,
    observed: Observations,
    led_since_ms: int,
    done: Reconciled,
) -> None:
    session_id, state = row.id, row.state
    limit_ms = round(context.settings.starting_seconds * 1000)
    silent_ms = tx.now_ms - row.expires_ms
    verdict = judge(
        state,
        _seen(row, observed, led_since_ms),
        silent_ms=silent_ms,
        deadline_ms=tx.now_ms - (row.hello_ms or row.created_ms) - limit_ms,
        owns=state is SessionState.LOST and bool(ownership.owned(tx, session_id)),
        give_up_ms=round(context.settings.disconnected_budget_seconds * 1000),
    )
    if verdict == "end":
        seen = (observed or {}).get(session_id)
        if seen is not None and seen.state in {"exited", "lost"}:
            reason, text = (
                seen.reason or "runner_lost",
                seen.reason or "The machine's render process was lost.",
            )
            done.forget.append(session_id)
        elif state is SessionState.STARTING:
            reason, text = "not_started", "The machine did not start in time."
            done.stop.append(session_id)
            if seen is not None:
                done.lingering.append(row)
        else:
            reason, text = "runner_lost", GONE
        expiry.lose_session(tx, session_id, reason, text)
    elif verdict == "lose":
        expiry.expire(tx, session_id)
    elif verdict == "give_up":
        expiry.give_up(tx, session_id)
        done.stop.append(session_id)
    elif verdict == "stop":
        done.stop.append(session_id)
    if verdict != "keep":
        job_id = row.job_id
        tx.wake(f"job:{job_id}", f"session:{session_id}")


def _seen(row: LeasedSession, observed: Observations, led_since_ms: int) -> Seen:
    if observed is None:
        return "unknown"
    seen = observed.get(row.id)
    if seen is None:
        # An engine that answers and knows nothing of it: gone, unless its start may still be on its way.
        never = row.state is SessionState.STARTING and row.created_ms < led_since_ms
        return "gone" if never or row.state is SessionState.LOST else "unknown"
    if seen.state in {"exited", "lost"}:
        return "gone"
    return "running" if seen.state == "running" else "unknown"
