"""What budgets stand at, for whoever looks. Only `server/budgets` changes them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.core.budget import BudgetTerms
from framefarm.core.money import money
from framefarm.server.budgets.tables import budget_holds, budgets, reservations
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.projects.tables import projects
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso


def terms_of(row: Any) -> BudgetTerms:
    return BudgetTerms(row["amount_micros"], row["mode"], row["warn_at"], row["hold_at"], row["cancel_at"])


def spent_before(tx: Tx, row: Any) -> int:
    """The cost of all attempts under a budget that ended in its period."""
    query = scoped(
        sa.select(sa.func.coalesce(sa.func.sum(attempts.c.cost_micros), 0)), attempts, row["account_id"]
    )
    if row["job_id"] is not None:
        query = query.where(attempts.c.job_id == row["job_id"])
    elif row["project_id"] is not None:
        query = query.join(jobs, jobs.c.id == attempts.c.job_id).where(jobs.c.project_id == row["project_id"])
    return int(tx.conn.execute(query.where(attempts.c.ended_ms >= row["period_start_ms"])).scalar_one())


def standing(
    tx: Tx, account_id: str, *, after: str = "", limit: int | None = None, only: str | None = None
) -> list[dict[str, Any]]:
    """The account's budgets, oldest first, as the API tells them."""
    query = scoped(
        sa.select(budgets, projects.c.name.label("project"))
        .join(projects, projects.c.id == budgets.c.project_id, isouter=True)
        .order_by(budgets.c.id),
        budgets,
        account_id,
    ).where(budgets.c.id > after)
    if only is not None:
        query = query.where(budgets.c.id == only)
    rows = tx.conn.execute(query.limit(limit)).mappings().all()
    names = [row["id"] for row in rows]
    fresh = sessions.c.spent_micros - reservations.c.settled_micros
    held = sa.case((fresh < reservations.c.held_micros, fresh), else_=reservations.c.held_micros)
    unsettled = farmwide(
        sa.select(reservations.c.budget_id, sa.func.sum(fresh), sa.func.sum(held))
        .join(sessions, sessions.c.id == reservations.c.session_id)
        .where(reservations.c.budget_id.in_(names))
        .group_by(reservations.c.budget_id)
    )
    moved = {budget: (int(spent), int(used)) for budget, spent, used in tx.conn.execute(unsettled)}
    holding = farmwide(
        sa.select(budget_holds.c.budget_id, sa.func.count())
        .where(budget_holds.c.budget_id.in_(names))
        .group_by(budget_holds.c.budget_id)
    )
    holds = {row[0]: row[1] for row in tx.conn.execute(holding)}
    return [_shape(tx, row, *moved.get(row["id"], (0, 0)), holds.get(row["id"], 0)) for row in rows]


def _shape(tx: Tx, row: Any, fresh: int, used: int, holding: int) -> dict[str, Any]:
    spent = row["spent_micros"] + fresh if row["counted"] else spent_before(tx, row)
    reserved = row["reserved_micros"] - used
    limit = terms_of(row).limit_micros
    left = None if limit is None else max(0, limit - spent - reserved)
    return {
        "id": row["id"],
        "scope": "job" if row["job_id"] else "project" if row["project_id"] else "account",
        "project": row["project"],
        "job": row["job_id"],
        "period": row["period"],
        "period_start": iso(row["period_start_ms"]) if row["period"] == "month" else None,
        "amount": money(row["amount_micros"]),
        "warn_at": row["warn_at"],
        "hold_at": row["hold_at"],
        "cancel_at": row["cancel_at"],
        "mode": row["mode"],
        "spent": money(spent),
        "reserved": money(reserved),
        "left": None if left is None else money(left),
        "warned": row["warned"],
        "jobs_held": holding,
        "created_at": iso(row["created_ms"]),
    }
