"""Answers of the public API for billing and the ledger."""

from __future__ import annotations

from pydantic import BaseModel

from framefarm.protocol.api_budgets import Budget
from framefarm.protocol.base import Money


class ByProject(BaseModel):
    project: str
    cost: Money


class ByJob(BaseModel):
    job: str
    job_title: str
    cost: Money


class ByInstanceType(BaseModel):
    instance_type: str
    cost: Money


class CurrentPeriod(BaseModel):
    """A calendar month in UTC. `total_cost` includes `not_yet_posted`, which the ledger lacks."""

    start: str
    end: str
    total_cost: Money
    not_yet_posted: Money
    core_hours: float
    gpu_hours: float
    frames: int
    by_project: list[ByProject]
    by_job: list[ByJob]
    by_instance_type: list[ByInstanceType]
    spot_savings: Money
    balance: Money
    budgets: list[Budget]


class Transaction(BaseModel):
    """An entry of the ledger. Charges are negative; `balance` is the account's balance after the entry."""

    id: str
    number: int
    at: str
    kind: str
    amount: Money
    balance: Money
    description: str
    job: str | None


class TransactionPage(BaseModel):
    data: list[Transaction]
    next_cursor: str | None
