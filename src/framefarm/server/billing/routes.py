"""`/api/billing/*`: usage of the current month, and the ledger."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from framefarm.core.money import money
from framefarm.protocol.api_billing import CurrentPeriod, TransactionPage
from framefarm.server.accounts.callers import Caller
from framefarm.server.billing import service
from framefarm.server.budgets.status import budgets_of
from framefarm.server.http.context import context_of
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer
from framefarm.server.rows import LedgerTransactionRow
from framefarm.server.timestamps import iso

router = APIRouter(prefix="/api/billing", tags=["billing"])
Kind = Literal["charge", "payment", "credit", "refund", "adjustment"]


@router.get("/current-period", response_model=CurrentPeriod, summary="Current billing period usage and cost")
async def current_period(request: Request, actor: Caller) -> Answer:
    read = context_of(request).db.read
    usage = await read(service.current_period, actor.account_id)
    return {
        "start": iso(usage.start_ms),
        "end": iso(usage.end_ms),
        "total_cost": money(usage.total),
        "not_yet_posted": money(usage.unposted),
        "core_hours": usage.core_hours,
        "gpu_hours": usage.gpu_hours,
        "frames": usage.frames,
        "by_project": [
            {"project": name, "cost": money(cost)} for name, cost in sorted(usage.by_project.items())
        ],
        "by_job": [
            {"job": job, "job_title": usage.titles[job], "cost": money(cost)}
            for job, cost in sorted(usage.by_job.items(), reverse=True)
        ],
        "by_instance_type": [
            {"instance_type": name, "cost": money(cost)}
            for name, cost in sorted(usage.by_instance_type.items())
        ],
        "spot_savings": money(usage.spot_savings),
        "balance": money(usage.balance),
        "budgets": await read(budgets_of, actor.account_id),
    }


@router.get("/transactions", response_model=TransactionPage, summary="Full payment transaction history")
async def transactions(request: Request, actor: Caller, paging: Paging, kind: Kind | None = None) -> Answer:
    after = paging.after("transactions", [kind], actor)
    rows = await context_of(request).db.read(
        service.transactions, actor.account_id, after[0] if after else None, paging.limit + 1, kind
    )
    answer = paging.page("transactions", [kind], actor, rows, lambda row: [row.number])
    return answer | {"data": [_shape(row) for row in answer["data"]]}


def _shape(row: LedgerTransactionRow) -> Answer:
    return {
        "id": row.id,
        "number": row.number,
        "at": iso(row.at_ms),
        "kind": row.kind,
        "amount": money(row.amount_micros),
        "balance": money(row.balance_micros),
        "description": row.description,
        "job": row.job_id,
    }
