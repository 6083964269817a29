"""The leader's book of budgets: read at the beginning of its turn, written where something changed.

It reads what sessions have spent in one statement and needs no job's lock for that. Only the leader's tick
writes sessions, so none is born beside the book.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from framefarm.core import budget as rules
from framefarm.core.budget import BudgetBalance, SessionReservation
from framefarm.core.money import cost_micros
from framefarm.server.budgets.service import month_start_ms
from framefarm.server.budgets.status import spent_before, terms_of
from framefarm.server.budgets.tables import budget_holds, budgets, reservations
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import jobs
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.tenancy import farmwide

COUNTERS = ("counted", "period_start_ms", "warned", "spent_micros", "reserved_micros")


@dataclass
class LiveSession:
    """A session under a budget."""

    row: Any
    purse: SessionReservation
    running_micros: int
    before: tuple[int, dict[str, int]] | None = None
    """What its reservations said when they were read; None: it has none yet."""


@dataclass
class BudgetSnapshot:
    """All budgets, what sessions have set aside from them, and the jobs they hold."""

    tx: Tx
    context: AppContext
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    pots: dict[str, BudgetBalance] = field(default_factory=dict)
    live: dict[str, LiveSession] = field(default_factory=dict)
    holds: set[tuple[str, str]] = field(default_factory=set)
    """(job, budget): which budgets hold which jobs."""

    def read(self) -> None:
        found = self.tx.conn.execute(farmwide(sa.select(budgets)).order_by(budgets.c.id).with_for_update())
        for seen in found.mappings():
            self.rows[seen["id"]] = dict(seen)
            self.before[seen["id"]] = {name: seen[name] for name in COUNTERS}
        held = farmwide(sa.select(budget_holds.c.job_id, budget_holds.c.budget_id))
        self.holds = {(job, budget) for job, budget in self.tx.conn.execute(held)}
        if not self.rows:
            return
        for row in self.rows.values():
            if not row["counted"]:
                self._count(row)
            self.pots[row["id"]] = BudgetBalance(
                row["id"],
                row["mode"],
                terms_of(row).limit_micros,
                row["spent_micros"],
                row["reserved_micros"],
            )
        self._read_sessions()
        self._close_ended()
        for row in self.rows.values():
            if row["period"] == "month" and row["period_start_ms"] != month_start_ms(self.tx.now_ms):
                self._next_month(row)

    def _count(self, row: dict[str, Any]) -> None:
        """A new budget counts what was spent before it was made. Jobs at work are locked meanwhile: what
        they report afterwards is settled by their sessions' reservations, which begin here."""
        mine = farmwide(sa.select(sessions.c.job_id, jobs.c.project_id).distinct())
        mine = mine.join(jobs, jobs.c.id == sessions.c.job_id).where(
            sessions.c.ended.is_(False), sessions.c.account_id == row["account_id"]
        )
        for job_id, project_id in sorted(self.tx.conn.execute(mine).all()):
            if _is_above(row, row["account_id"], project_id, job_id):
                job_states.lock(self.tx, job_id)
        row["spent_micros"] = spent_before(self.tx, row)
        row["counted"] = True

    def _read_sessions(self) -> None:
        since = farmwide(sa.select(sa.func.min(attempts.c.started_ms))).where(
            attempts.c.session_id == sessions.c.id, attempts.c.outcome.is_(None)
        )
        query = farmwide(
            sa.select(
                sessions.c.id, sessions.c.job_id, sessions.c.account_id, sessions.c.price_micros,
                sessions.c.spent_micros, sessions.c.cost_cap_micros, sessions.c.cancel, jobs.c.project_id,
                since.scalar_subquery().label("running_since_ms"),
            ).join(jobs, jobs.c.id == sessions.c.job_id)
        ).where(
            sessions.c.ended.is_(False),
            sessions.c.account_id.in_({row["account_id"] for row in self.rows.values()}),
        )  # fmt: skip
        for row in self.tx.conn.execute(query.order_by(sessions.c.id)).mappings():
            began = row["running_since_ms"]
            running = 0 if began is None else max(0, self.tx.now_ms - began)
            purse = SessionReservation(row["id"], row["price_micros"], row["spent_micros"])
            self.live[row["id"]] = LiveSession(row, purse, cost_micros(running, row["price_micros"]))
        mine = farmwide(sa.select(reservations)).where(reservations.c.session_id.in_(list(self.live)))
        for row in self.tx.conn.execute(mine).mappings():
            if row["budget_id"] in self.pots:
                live = self.live[row["session_id"]]
                live.purse.held[row["budget_id"]] = row["held_micros"]
                live.purse.settled_micros = row["settled_micros"]
                live.before = live.purse.settled_micros, dict(live.purse.held)
        for live in self.live.values():
            fresh = live.row["spent_micros"] - live.purse.settled_micros
            new = [name for name in self.above(live.row) if name not in live.purse.held]
            if new or fresh > min(live.purse.held.values(), default=0):
                # What it spent before a budget was new to it was counted with the budget.
                rules.settle(live.purse, self.pots, live.row["spent_micros"])
                live.purse.held.update(dict.fromkeys(new, 0))

    def _close_ended(self) -> None:
        """What sessions that are over did not spend comes back."""
        query = farmwide(
            sa.select(reservations, sessions.c.spent_micros, sessions.c.price_micros).join(
                sessions, sessions.c.id == reservations.c.session_id
            )
        ).where(sessions.c.ended.is_(True))
        over: dict[str, tuple[SessionReservation, int]] = {}
        for row in self.tx.conn.execute(query).mappings():
            if row["budget_id"] in self.pots:
                name = row["session_id"]
                fresh = SessionReservation(name, row["price_micros"], row["settled_micros"])
                purse, _ = over.setdefault(name, (fresh, row["spent_micros"]))
                purse.held[row["budget_id"]] = row["held_micros"]
        for purse, spent in over.values():
            rules.release(purse, self.pots, spent)
        if over:
            gone = farmwide(sa.delete(reservations)).where(reservations.c.session_id.in_(list(over)))
            self.tx.conn.execute(gone)

    def _next_month(self, row: dict[str, Any]) -> None:
        """An attempt counts in the month in which it ends: what is set aside stays so."""
        for live in self.live.values():
            if row["id"] in live.purse.held:
                rules.settle(live.purse, self.pots, live.row["spent_micros"])
        row.update(period_start_ms=month_start_ms(self.tx.now_ms), warned=False)
        self.pots[row["id"]].spent_micros = 0

    def above(self, row: Any) -> list[str]:
        """The budgets above a session or job: its own, its project's, its account's."""
        return [
            name
            for name, budget in self.rows.items()
            if _is_above(budget, row["account_id"], row["project_id"], row["job_id"])
        ]

    def write(self) -> None:
        for live in self.live.values():
            self.write_reservations(live)
            cap = live.purse.cap_micros(self.pots)
            if cap != live.row["cost_cap_micros"]:
                mine = farmwide(sa.update(sessions)).where(sessions.c.id == live.purse.session)
                self.tx.conn.execute(mine.values(cost_cap_micros=cap))
        self.write_budgets()

    def write_budgets(self) -> None:
        for name, row in self.rows.items():
            pot = self.pots[name]
            values = {
                "counted": row["counted"], "period_start_ms": row["period_start_ms"], "warned": row["warned"],
                "spent_micros": pot.spent_micros, "reserved_micros": pot.reserved_micros,
            }  # fmt: skip
            if values != self.before.get(name):
                mine = farmwide(sa.update(budgets)).where(budgets.c.id == name)
                self.tx.conn.execute(mine.values(values))
                self.before[name] = values

    def write_reservations(self, live: LiveSession) -> None:
        held, now = live.purse.held, (live.purse.settled_micros, dict(live.purse.held))
        if now == live.before or not (held or live.before):
            return
        if live.before is not None:
            mine = reservations.c.session_id == live.purse.session
            self.tx.conn.execute(farmwide(sa.delete(reservations)).where(mine))
        rows = [
            {
                "session_id": live.purse.session,
                "budget_id": name,
                "account_id": live.row["account_id"],
                "settled_micros": live.purse.settled_micros,
                "held_micros": micros,
            }
            for name, micros in held.items()
        ]
        if rows:
            self.tx.conn.execute(sa.insert(reservations), rows)
        live.before = now


def _is_above(row: Any, account_id: str, project_id: str, job_id: str) -> bool:
    if row["account_id"] != account_id:
        return False
    if row["job_id"] is not None:
        return bool(row["job_id"] == job_id)
    return row["project_id"] is None or bool(row["project_id"] == project_id)
