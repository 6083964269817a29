"""Budgets as an account's admins make and change them. What they do to jobs is in `enforcement.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.protocol.api_budgets import BudgetChange, NewBudget
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.budgets.status import standing
from framefarm.server.budgets.tables import budgets, reservations
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs.tables import jobs
from framefarm.server.projects.tables import projects
from framefarm.server.tenancy import farmwide, scoped

TERMS = ("amount_micros", "warn_at", "hold_at", "cancel_at", "mode")
MOST = 1000
"""Budgets an account may have: the leader looks at all of them, every time."""


def month_start_ms(now_ms: int) -> int:
    """When the calendar month (UTC) of a moment began."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return round(start.timestamp() * 1000)


def create(tx: Tx, context: AppContext, actor: Actor, said: NewBudget) -> dict[str, Any]:
    """Raises InvalidInput: an unknown project or job, thresholds out of order."""
    if said.project is not None and said.job is not None:
        raise InvalidInput.of("job", "give a project or a job, or neither for the whole account", said.job)
    accounts.lock(tx, actor.account_id)
    count = scoped(sa.select(sa.func.count()).select_from(budgets), budgets, actor.account_id)
    if tx.conn.execute(count).scalar_one() >= MOST:
        raise InvalidInput.of("amount_micros", f"an account may have {MOST} budgets at most", None)
    period = said.period or ("total" if said.job is not None else "month")
    values = {name: getattr(said, name) for name in TERMS}
    _check(values)
    budget_id = new_id("bud")
    tx.conn.execute(
        sa.insert(budgets).values(
            id=budget_id,
            account_id=actor.account_id,
            project_id=_project(tx, actor, said.project),
            job_id=_job(tx, actor, said.job),
            period=period,
            created_ms=tx.now_ms,
            created_by=actor.user_id,
            counted=False,
            period_start_ms=month_start_ms(tx.now_ms) if period == "month" else 0,
            spent_micros=0,
            reserved_micros=0,
            warned=False,
            **values,
        )
    )
    target = {"project": said.project, "job": said.job, "period": period}
    _told(tx, context, actor, "budget.create", budget_id, None, target | values)
    return find(tx, actor, budget_id)


def _project(tx: Tx, actor: Actor, name: str | None) -> str | None:
    if name is None:
        return None
    query = scoped(sa.select(projects.c.id), projects, actor.account_id).where(projects.c.name == name)
    found: str | None = tx.conn.execute(query).scalar()
    if found is None:
        raise InvalidInput.of("project", "there is no such project", name)
    return found


def _job(tx: Tx, actor: Actor, job_id: str | None) -> str | None:
    if job_id is None:
        return None
    query = scoped(sa.select(jobs.c.id), jobs, actor.account_id).where(
        jobs.c.id == job_id, jobs.c.deleted_ms.is_(None)
    )
    if tx.conn.execute(query).first() is None:
        raise InvalidInput.of("job", "there is no such job", job_id)
    return job_id


def _check(terms: dict[str, Any]) -> None:
    steps = [terms[name] for name in ("warn_at", "hold_at", "cancel_at") if terms[name] is not None]
    if not steps:
        raise InvalidInput.of("hold_at", "give at least one of warn_at, hold_at, cancel_at", None)
    if steps != sorted(steps):
        raise InvalidInput.of("hold_at", "must not be below warn_at, nor above cancel_at", terms["hold_at"])


def find(tx: Tx, actor: Actor, budget_id: str) -> dict[str, Any]:
    """Raises NotFound, for another account's too."""
    for row in standing(tx, actor.account_id, only=budget_id):
        return row
    raise NotFound(f"There is no budget {budget_id}.")


def change(tx: Tx, context: AppContext, actor: Actor, budget_id: str, said: BudgetChange) -> dict[str, Any]:
    """What it holds goes on by itself if there is money now."""
    query = scoped(sa.select(budgets), budgets, actor.account_id).where(budgets.c.id == budget_id)
    row = tx.conn.execute(query.with_for_update()).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no budget {budget_id}.")
    asked = said.model_dump(include=said.model_fields_set)
    for name in ("amount_micros", "mode"):
        if name in asked and asked[name] is None:
            raise InvalidInput.of(name, "can't be null", None)
    values = {name: value for name, value in asked.items() if value != row[name]}
    if values:
        _check({name: row[name] for name in TERMS} | values)
        before = {name: row[name] for name in values}
        mine = scoped(sa.update(budgets), budgets, actor.account_id).where(budgets.c.id == budget_id)
        again = {"warned": False} if {"amount_micros", "warn_at"} & set(values) else {}
        tx.conn.execute(mine.values(values | again))
        _told(tx, context, actor, "budget.change", budget_id, before, values)
    return find(tx, actor, budget_id)


def delete(tx: Tx, context: AppContext, actor: Actor, budget_id: str) -> None:
    """Jobs it holds go on by themselves."""
    before = find(tx, actor, budget_id)
    mine = scoped(sa.delete(budgets), budgets, actor.account_id).where(budgets.c.id == budget_id)
    tx.conn.execute(mine)
    tx.conn.execute(farmwide(sa.delete(reservations)).where(reservations.c.budget_id == budget_id))
    _told(tx, context, actor, "budget.delete", budget_id, {n: before[n] for n in ("amount", "mode")}, None)


def _told(
    tx: Tx, context: AppContext, actor: Actor, action: str, budget_id: str, before: Any, after: Any
) -> None:
    audit(tx, actor, action, budget_id, before=before, after=after)
    tx.wake("dispatch")
