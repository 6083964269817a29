"""The leader's snapshot of all budgets: read at the start of its tick, written where something changed.

One statement reads what sessions have spent, without a job's lock. Only the leader's tick inserts sessions,
so no session appears beside the snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from framefarm.core import budget as rules
from framefarm.core.budget import BudgetBalance, SessionReservation
from framefarm.core.money import cost_micros
from framefarm.server.budgets.service import month_start_ms
from framefarm.server.budgets.status import spent_before, terms_of
from framefarm.server.budgets.tables import budget_holds, budgets, reservations
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import jobs
from framefarm.server.rows import BudgetRow, ReservationRow
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.settings import Settings
from framefarm.server.tenancy import scoped

FARM_WIDE = "The leader reads the budgets of all accounts at once."


@dataclass(frozen=True, slots=True)
class BudgetedJob:
    """A job's ids, which decide the budgets above it."""

    job_id: str
    account_id: str
    project_id: str


@dataclass(frozen=True, slots=True)
class SessionCosts(BudgetedJob):
    """A session that has not ended; money in micro-dollars."""

    id: str
    price_micros: int
    """Per hour."""
    spent_micros: int = 0
    """Cost of its ended attempts."""
    cost_cap_micros: int | None = None
    cancel: bool = False
    running_since_ms: int | None = None
    """Start of its attempt in work."""


@dataclass(frozen=True, slots=True)
class _EndedReservation(ReservationRow):
    spent_micros: int
    price_micros: int


Stored = tuple[int, dict[str, int]]
"""(settled micro-dollars, budget → held micro-dollars) of a session, as its reservations' rows state them."""


@dataclass
class LiveSession:
    """A session under a budget."""

    row: SessionCosts
    reservation: SessionReservation
    running_micros: int
    """Cost of its attempt in work until now."""
    stored: Stored | None = None
    """None: it has no rows yet."""


@dataclass
class BudgetSnapshot:
    """All budgets, what sessions have reserved from them, and the jobs that they hold."""

    tx: Tx
    settings: Settings
    rows: dict[str, BudgetRow] = field(default_factory=dict)
    """Budget id → its row; the money is in `balances`."""
    balances: dict[str, BudgetBalance] = field(default_factory=dict)
    live: dict[str, LiveSession] = field(default_factory=dict)
    """Session id → session."""
    holds: set[tuple[str, str]] = field(default_factory=set)
    """(job, budget): which budgets hold which jobs."""
    _stored: dict[str, BudgetRow] = field(default_factory=dict)

    def read(self) -> None:
        """Read budgets, holds and sessions, close ended sessions, begin new months."""
        query = sa.select(budgets).order_by(budgets.c.id).with_for_update()
        self.rows = {row.id: row for row in self.tx.rows(BudgetRow, query)}
        self._stored = dict(self.rows)
        held = sa.select(budget_holds.c.job_id, budget_holds.c.budget_id)
        self.holds = {(job, budget) for job, budget in self.tx.conn.execute(held)}
        if not self.rows:
            return
        for row in list(self.rows.values()):
            if not row.counted:
                self._count(row)
            row = self.rows[row.id]
            self.balances[row.id] = BudgetBalance(
                row.id, row.mode, terms_of(row).limit_micros, row.spent_micros, row.reserved_micros
            )
        self._read_sessions()
        self._close_ended()
        for row in list(self.rows.values()):
            if row.period == "month" and row.period_start_ms != month_start_ms(self.tx.now_ms):
                self._next_month(row)

    def _count(self, row: BudgetRow) -> None:
        """Count what was spent before the budget was made.

        The jobs of live sessions are locked meanwhile: what they report afterwards is settled by their
        sessions' reservations, which begin here.
        """
        query = scoped(
            sa.select(sessions.c.job_id, sessions.c.account_id, jobs.c.project_id)
            .distinct()
            .join(jobs, jobs.c.id == sessions.c.job_id),
            sessions,
            row.account_id,
        ).where(sessions.c.ended.is_(False))
        for job in self.tx.rows(BudgetedJob, query.order_by(sessions.c.job_id)):
            if _is_above(row, job):
                job_states.lock(self.tx, job.job_id)
        self.rows[row.id] = replace(row, spent_micros=spent_before(self.tx, row), counted=True)

    def _read_sessions(self) -> None:
        since = sa.select(sa.func.min(attempts.c.started_ms)).where(
            attempts.c.session_id == sessions.c.id, attempts.c.outcome.is_(None)
        )
        query = (
            sa.select(
                sessions.c.id,
                sessions.c.job_id,
                sessions.c.account_id,
                sessions.c.price_micros,
                sessions.c.spent_micros,
                sessions.c.cost_cap_micros,
                sessions.c.cancel,
                jobs.c.project_id,
                since.scalar_subquery().label("running_since_ms"),
            ).join(jobs, jobs.c.id == sessions.c.job_id)
        ).where(
            sessions.c.ended.is_(False),
            sessions.c.account_id.in_({row.account_id for row in self.rows.values()}),
        )
        for session in self.tx.rows(SessionCosts, query.order_by(sessions.c.id)):
            began = session.running_since_ms
            running_ms = 0 if began is None else max(0, self.tx.now_ms - began)
            self.live[session.id] = LiveSession(
                session,
                SessionReservation(session.id, session.price_micros, session.spent_micros),
                cost_micros(running_ms, session.price_micros),
            )
        of_live = sa.select(reservations).where(reservations.c.session_id.in_(list(self.live)))
        for row in self.tx.rows(ReservationRow, of_live):
            if row.budget_id in self.balances:
                live = self.live[row.session_id]
                live.reservation.held[row.budget_id] = row.held_micros
                live.reservation.settled_micros = row.settled_micros
                live.stored = row.settled_micros, dict(live.reservation.held)
        for live in self.live.values():
            unsettled = live.row.spent_micros - live.reservation.settled_micros
            new = [budget for budget in self.above(live.row) if budget not in live.reservation.held]
            if new or unsettled > min(live.reservation.held.values(), default=0):
                # The session's cost before a budget was new to it was counted with the budget.
                rules.settle(live.reservation, self.balances, live.row.spent_micros)
                live.reservation.held.update(dict.fromkeys(new, 0))

    def _close_ended(self) -> None:
        """Return the unspent reservations of ended sessions."""
        query = (
            sa.select(reservations, sessions.c.spent_micros, sessions.c.price_micros).join(
                sessions, sessions.c.id == reservations.c.session_id
            )
        ).where(sessions.c.ended.is_(True))
        ended: dict[str, tuple[SessionReservation, int]] = {}
        for row in self.tx.rows(_EndedReservation, query):
            if row.budget_id in self.balances:
                unread = SessionReservation(row.session_id, row.price_micros, row.settled_micros)
                reservation, _ = ended.setdefault(row.session_id, (unread, row.spent_micros))
                reservation.held[row.budget_id] = row.held_micros
        for reservation, spent_micros in ended.values():
            rules.release(reservation, self.balances, spent_micros)
        if ended:
            closed = sa.delete(reservations).where(reservations.c.session_id.in_(list(ended)))
            self.tx.conn.execute(closed)

    def _next_month(self, row: BudgetRow) -> None:
        """Begin a month. An attempt counts in the month in which it ends, so reservations stay."""
        for live in self.live.values():
            if row.id in live.reservation.held:
                rules.settle(live.reservation, self.balances, live.row.spent_micros)
        self.rows[row.id] = replace(row, period_start_ms=month_start_ms(self.tx.now_ms), warned=False)
        self.balances[row.id].spent_micros = 0

    def above(self, job: BudgetedJob) -> list[str]:
        """Ids of the budgets above a job or session: the job's, its project's, its account's."""
        return [budget for budget, row in self.rows.items() if _is_above(row, job)]

    def write(self) -> None:
        """Write changed reservations, cost caps of sessions, and budgets."""
        for live in self.live.values():
            self.write_reservations(live)
            cap = live.reservation.cap_micros(self.balances)
            if cap != live.row.cost_cap_micros:
                statement = sa.update(sessions).where(sessions.c.id == live.row.id)
                self.tx.conn.execute(statement.values(cost_cap_micros=cap))
        self.write_budgets()

    def write_budgets(self) -> None:
        """Write the budgets that have changed."""
        for budget, row in self.rows.items():
            balance = self.balances[budget]
            row = replace(row, spent_micros=balance.spent_micros, reserved_micros=balance.reserved_micros)
            if row != self._stored[budget]:
                statement = sa.update(budgets).where(budgets.c.id == budget)
                self.tx.conn.execute(
                    statement.values(
                        counted=row.counted,
                        period_start_ms=row.period_start_ms,
                        warned=row.warned,
                        spent_micros=row.spent_micros,
                        reserved_micros=row.reserved_micros,
                    )
                )
                self._stored[budget] = row

    def write_reservations(self, live: LiveSession) -> None:
        """Write the reservations of a session if they have changed."""
        settled, held = live.reservation.settled_micros, dict(live.reservation.held)
        if (settled, held) == live.stored or not (held or live.stored):
            return
        if live.stored is not None:
            old = sa.delete(reservations).where(reservations.c.session_id == live.row.id)
            self.tx.conn.execute(old)
        inserts = [
            {
                "session_id": live.row.id,
                "budget_id": budget,
                "account_id": live.row.account_id,
                "settled_micros": settled,
                "held_micros": micros,
            }
            for budget, micros in held.items()
        ]
        if inserts:
            self.tx.conn.execute(sa.insert(reservations), inserts)
        live.stored = settled, held


def _is_above(row: BudgetRow, job: BudgetedJob) -> bool:
    if row.account_id != job.account_id:
        return False
    if row.job_id is not None:
        return row.job_id == job.job_id
    return row.project_id is None or row.project_id == job.project_id
