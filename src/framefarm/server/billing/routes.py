"""`/api/billing/*`."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request

from framefarm.core.money import money
from framefarm.protocol.api_billing import CurrentPeriod, TransactionPage
from framefarm.server.accounts.callers import Caller
from framefarm.server.billing import service
from framefarm.server.budgets.status import budgets_of
from framefarm.server.http.context import context_of
from framefarm.server.http.paging import Paging
from framefarm.server.timestamps import iso

router = APIRouter(prefix="/api/billing", tags=["billing"])
Kind = Literal["charge", "payment", "credit", "refund", "adjustment"]


@router.get("/current-period", response_model=CurrentPeriod, summary="Current billing period usage and cost")
async def current_period(request: Request, actor: Caller) -> Any:
    found = await context_of(request).db.read(service.current_period, actor.account_id)
    budgets = await context_of(request).db.read(budgets_of, actor.account_id)
    by = found["by"]
    return {
        "start": iso(found["start_ms"]),
        "end": iso(found["end_ms"]),
        "total_cost": money(found["total"]),
        "not_yet_posted": money(found["unposted"]),
        "core_hours": found["core_hours"],
        "gpu_hours": found["gpu_hours"],
        "frames": found["frames"],
        "by_project": [{"project": n, "cost": money(c)} for n, c in sorted(by["project"].items())],
        "by_job": [
            {"job": n, "job_title": found["titles"][n], "cost": money(c)}
            for n, c in sorted(by["job"].items(), reverse=True)
        ],
        "by_instance_type": [
            {"instance_type": n, "cost": money(c)} for n, c in sorted(by["instance"].items())
        ],
        "spot_savings": money(found["saved"]),
        "balance": money(found["balance"]),
        "budgets": budgets,
    }


@router.get("/transactions", response_model=TransactionPage, summary="Full payment transaction history")
async def transactions(request: Request, actor: Caller, paging: Paging, kind: Kind | None = None) -> Any:
    after = paging.after("transactions", [kind], actor)
    rows = await context_of(request).db.read(
        service.transactions, actor.account_id, after[0] if after else None, paging.limit + 1, kind
    )
    answer = paging.page("transactions", [kind], actor, rows, lambda row: [row["number"]])
    answer["data"] = [
        {
            "id": r["id"],
            "number": r["number"],
            "at": iso(r["at_ms"]),
            "kind": r["kind"],
            "amount": money(r["amount_micros"]),
            "balance": money(r["balance_micros"]),
            "description": r["description"],
            "job": r["job_id"],
        }
        for r in answer["data"]
    ]
    return answer
