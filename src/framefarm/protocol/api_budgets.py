"""Requests and answers of the public API for budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictInt, StrictStr

from framefarm.protocol.base import Money, Strict

Percent = Annotated[StrictInt, Field(ge=1, le=1000)]
Amount = Annotated[StrictInt, Field(ge=1, le=10**15)]


class NewBudget(Strict):
    """A budget of one `project` (its name), of one `job`, or else of the whole account. Thresholds are
    percent of the amount; null: no such threshold."""

    amount_micros: Amount
    project: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    job: Annotated[StrictStr, Field(min_length=1, max_length=100)] | None = None
    period: Literal["month", "total"] | None = None
    warn_at: Percent | None = 80
    hold_at: Percent | None = 100
    cancel_at: Percent | None = None
    mode: Literal["drain", "stop"] = "drain"


class BudgetChange(Strict):
    """Changes to a budget. Fields left out stay as they are."""

    amount_micros: Amount | None = None
    warn_at: Percent | None = None
    hold_at: Percent | None = None
    cancel_at: Percent | None = None
    mode: Literal["drain", "stop"] | None = None


class Budget(BaseModel):
    """A budget in its current period. `spent`: cost of attempts that ended in it; `reserved`: reserved by
    live sessions; `left`: may still be reserved before the first limit, null if there is no limit."""

    id: str
    scope: Literal["account", "project", "job"]
    project: str | None
    job: str | None
    period: Literal["month", "total"]
    period_start: str | None
    amount: Money
    warn_at: int | None
    hold_at: int | None
    cancel_at: int | None
    mode: Literal["drain", "stop"]
    spent: Money
    reserved: Money
    left: Money | None
    warned: bool
    jobs_held: int
    created_at: str


class BudgetPage(BaseModel):
    data: list[Budget]
    next_cursor: str | None
