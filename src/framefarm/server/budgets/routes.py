"""`/api/budgets`: for an account's admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from framefarm.protocol.api_budgets import Budget, BudgetChange, BudgetPage, NewBudget
from framefarm.server.accounts.callers import Admin
from framefarm.server.budgets import service
from framefarm.server.budgets.status import budgets_of
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import TAKES_KEY
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer

router = APIRouter(prefix="/api/budgets", tags=["budgets"])
BudgetId = Annotated[str, Path(max_length=100)]


@router.get("", response_model=BudgetPage, summary="The account's budgets and their status")
async def list_budgets(request: Request, actor: Admin, paging: Paging) -> Answer:
    after = paging.after("budgets", [], actor)
    start = after[0] if after else ""
    read = context_of(request).db.read
    rows = await read(budgets_of, actor.account_id, after=start, limit=paging.limit + 1)
    return paging.page("budgets", [], actor, rows, lambda row: [row["id"]])


@router.post("", status_code=201, response_model=Budget, summary="Set a budget", openapi_extra=TAKES_KEY)
async def create_budget(request: Request, actor: Admin, body: NewBudget) -> Response:
    return await command(request, actor, body, service.create, actor, body, status=201)


@router.get("/{budget_id}", response_model=Budget, summary="One budget")
async def get_budget(request: Request, actor: Admin, budget_id: BudgetId) -> Answer:
    return await context_of(request).db.read(service.find, actor, budget_id)


@router.patch("/{budget_id}", response_model=Budget, summary="Change a budget's amount, thresholds or mode")
async def change_budget(request: Request, actor: Admin, budget_id: BudgetId, body: BudgetChange) -> Answer:
    return await context_of(request).db.write(service.change, actor, budget_id, body)


@router.delete("/{budget_id}", status_code=204, summary="Remove a budget")
async def delete_budget(request: Request, actor: Admin, budget_id: BudgetId) -> Response:
    await context_of(request).db.write(service.delete, actor, budget_id)
    return Response(status_code=204)
