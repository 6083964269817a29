"""Status of budgets as the API shows it: what is spent, reserved and left. Only reads."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.budget import BudgetTerms
from framefarm.core.money import money
from framefarm.server.budgets.tables import budget_holds, budgets, reservations
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.json_types import Answer
from framefarm.server.projects.tables import projects
from framefarm.server.rows import BudgetRow
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso


@dataclass(frozen=True, slots=True)
class _ShownBudget(BudgetRow):
    project: str | None
    """Name of its project."""


def terms_of(row: BudgetRow) -> BudgetTerms:
    return BudgetTerms(row.amount_micros, row.mode, row.warn_at, row.hold_at, row.cancel_at)


def spent_before(tx: Tx, row: BudgetRow) -> int:
    """Cost, in micro-dollars, of all attempts under a budget that ended in its period."""
    query = scoped(
        sa.select(sa.func.coalesce(sa.func.sum(attempts.c.cost_micros), 0)), attempts, row.account_id
    )
    if row.job_id is not None:
        query = query.where(attempts.c.job_id == row.job_id)
    elif row.project_id is not None:
        query = query.join(jobs, jobs.c.id == attempts.c.job_id).where(jobs.c.project_id == row.project_id)
    return int(tx.conn.execute(query.where(attempts.c.ended_ms >= row.period_start_ms)).scalar_one())


def budgets_of(
    tx: Tx, account_id: str, *, after: str = "", limit: int | None = None, only: str | None = None
) -> list[Answer]:
    """Budgets of an account with their status, oldest first.

    `after`: only ids above it. `only`: the id of the one budget to return.
    """
    query = scoped(
        sa.select(budgets, projects.c.name.label("project"))
        .join(projects, projects.c.id == budgets.c.project_id, isouter=True)
        .order_by(budgets.c.id),
        budgets,
        account_id,
    ).where(budgets.c.id > after)
    if only is not None:
        query = query.where(budgets.c.id == only)
    rows = tx.rows(_ShownBudget, query.limit(limit))
    ids = [row.id for row in rows]
    # The cost of sessions since the leader's last tick is not in the budgets' rows yet.
    spent = sessions.c.spent_micros - reservations.c.settled_micros
    used = sa.case((spent < reservations.c.held_micros, spent), else_=reservations.c.held_micros)
    unsettled = farmwide(
        sa.select(reservations.c.budget_id, sa.func.sum(spent), sa.func.sum(used))
        .join(sessions, sessions.c.id == reservations.c.session_id)
        .where(reservations.c.budget_id.in_(ids))
        .group_by(reservations.c.budget_id)
    )
    unsettled_of = {row[0]: (int(row[1]), int(row[2])) for row in tx.conn.execute(unsettled)}
    holds = farmwide(
        sa.select(budget_holds.c.budget_id, sa.func.count())
        .where(budget_holds.c.budget_id.in_(ids))
        .group_by(budget_holds.c.budget_id)
    )
    holds_of = {row[0]: row[1] for row in tx.conn.execute(holds)}
    return [_shape(tx, row, *unsettled_of.get(row.id, (0, 0)), holds_of.get(row.id, 0)) for row in rows]


def _shape(tx: Tx, row: _ShownBudget, new_spent: int, used: int, jobs_held: int) -> Answer:
    """`new_spent`, `used`: micro-dollars spent since the last tick, in all and out of reservations."""
    spent = row.spent_micros + new_spent if row.counted else spent_before(tx, row)
    reserved = row.reserved_micros - used
    limit = terms_of(row).limit_micros
    left = None if limit is None else max(0, limit - spent - reserved)
    return {
        "id": row.id,
        "scope": "job" if row.job_id else "project" if row.project_id else "account",
        "project": row.project,
        "job": row.job_id,
        "period": row.period,
        "period_start": iso(row.period_start_ms) if row.period == "month" else None,
        "amount": money(row.amount_micros),
        "warn_at": row.warn_at,
        "hold_at": row.hold_at,
        "cancel_at": row.cancel_at,
        "mode": row.mode,
        "spent": money(spent),
        "reserved": money(reserved),
        "left": None if left is None else money(left),
        "warned": row.warned,
        "jobs_held": jobs_held,
        "created_at": iso(row.created_ms),
    }
