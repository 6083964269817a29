"""Budgets as admins of an account make and change them. `enforcement.py` applies them to jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.protocol.api_budgets import BudgetChange, NewBudget
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.budgets.status import budgets_of
from framefarm.server.budgets.tables import budgets, reservations
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs.tables import jobs
from framefarm.server.json_types import Answer
from framefarm.server.projects.tables import projects
from framefarm.server.rows import BudgetRow
from framefarm.server.tenancy import farmwide, scoped

TERMS = ("amount_micros", "warn_at", "hold_at", "cancel_at", "mode")
BUDGETS_PER_ACCOUNT = 1000
"""The leader reads all budgets in each of its ticks."""


def month_start_ms(now_ms: int) -> int:
    """Start of the calendar month (UTC) of a moment."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return round(start.timestamp() * 1000)


def create(tx: Tx, actor: Actor, body: NewBudget) -> Answer:
    """Add a budget. Raises InvalidInput: unknown project or job, bad thresholds, too many."""
    if body.project is not None and body.job is not None:
        raise InvalidInput.of("job", "give a project or a job, or neither for the whole account", body.job)
    accounts.lock(tx, actor.account_id)
    count = scoped(sa.select(sa.func.count()).select_from(budgets), budgets, actor.account_id)
    if tx.conn.execute(count).scalar_one() >= BUDGETS_PER_ACCOUNT:
        raise InvalidInput.of(
            "amount_micros", f"an account may have {BUDGETS_PER_ACCOUNT} budgets at most", None
        )
    period = body.period or ("total" if body.job is not None else "month")
    values = {name: getattr(body, name) for name in TERMS}
    _check_thresholds(body.warn_at, body.hold_at, body.cancel_at)
    budget_id = new_id("bud")
    tx.conn.execute(
        sa.insert(budgets).values(
            id=budget_id,
            account_id=actor.account_id,
            project_id=_project(tx, actor, body.project),
            job_id=_job(tx, actor, body.job),
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
    target = {"project": body.project, "job": body.job, "period": period}
    audit(tx, actor, "budget.create", budget_id, after=target | values)
    tx.wake("dispatch")
    return find(tx, actor, budget_id)


def _project(tx: Tx, actor: Actor, name: str | None) -> str | None:
    if name is None:
        return None
    query = scoped(sa.select(projects.c.id), projects, actor.account_id).where(projects.c.name == name)
    project_id: str | None = tx.conn.execute(query).scalar()
    if project_id is None:
        raise InvalidInput.of("project", "there is no such project", name)
    return project_id


def _job(tx: Tx, actor: Actor, job_id: str | None) -> str | None:
    if job_id is None:
        return None
    query = scoped(sa.select(jobs.c.id), jobs, actor.account_id).where(
        jobs.c.id == job_id, jobs.c.deleted_ms.is_(None)
    )
    if tx.conn.execute(query).first() is None:
        raise InvalidInput.of("job", "there is no such job", job_id)
    return job_id


def _check_thresholds(warn_at: int | None, hold_at: int | None, cancel_at: int | None) -> None:
    steps = [step for step in (warn_at, hold_at, cancel_at) if step is not None]
    if not steps:
        raise InvalidInput.of("hold_at", "give at least one of warn_at, hold_at, cancel_at", None)
    if steps != sorted(steps):
        raise InvalidInput.of("hold_at", "must not be below warn_at, nor above cancel_at", hold_at)


def find(tx: Tx, actor: Actor, budget_id: str) -> Answer:
    """One budget with its status. Raises NotFound, also for a budget of another account."""
    for row in budgets_of(tx, actor.account_id, only=budget_id):
        return row
    raise NotFound(f"There is no budget {budget_id}.")


def change(tx: Tx, actor: Actor, budget_id: str, body: BudgetChange) -> Answer:
    """Change a budget. Jobs that it holds continue by themselves if it has money now.

    Raises NotFound, InvalidInput.
    """
    query = scoped(sa.select(budgets), budgets, actor.account_id).where(budgets.c.id == budget_id)
    row = tx.row_or_none(BudgetRow, query.with_for_update())
    if row is None:
        raise NotFound(f"There is no budget {budget_id}.")
    given = body.model_dump(include=body.model_fields_set)
    for name in ("amount_micros", "mode"):
        if name in given and given[name] is None:
            raise InvalidInput.of(name, "can't be null", None)
    values = {name: value for name, value in given.items() if value != getattr(row, name)}
    if values:
        new = replace(row, **values)
        _check_thresholds(new.warn_at, new.hold_at, new.cancel_at)
        before = {name: getattr(row, name) for name in values}
        statement = scoped(sa.update(budgets), budgets, actor.account_id).where(budgets.c.id == budget_id)
        warn_again = {"warned": False} if {"amount_micros", "warn_at"} & set(values) else {}
        tx.conn.execute(statement.values(values | warn_again))
        audit(tx, actor, "budget.change", budget_id, before=before, after=values)
        tx.wake("dispatch")
    return find(tx, actor, budget_id)


def delete(tx: Tx, actor: Actor, budget_id: str) -> None:
    """Remove a budget. Jobs that it holds continue by themselves. Raises NotFound."""
    before = find(tx, actor, budget_id)
    statement = scoped(sa.delete(budgets), budgets, actor.account_id).where(budgets.c.id == budget_id)
    tx.conn.execute(statement)
    tx.conn.execute(farmwide(sa.delete(reservations)).where(reservations.c.budget_id == budget_id))
    audit(tx, actor, "budget.delete", budget_id, before={name: before[name] for name in ("amount", "mode")})
    tx.wake("dispatch")
