"""`/api/budgets`: for an account's admins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from framefarm.protocol.api_budgets import Budget, BudgetChange, BudgetPage, NewBudget
from framefarm.server.accounts.callers import Admin
from framefarm.server.budgets import service
from framefarm.server.budgets.status import standing
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import documents_idempotency_key
from framefarm.server.http.paging import Paging

router = APIRouter(prefix="/api/budgets", tags=["budgets"])
BudgetId = Annotated[str, Path(max_length=100)]


@router.get("", response_model=BudgetPage, summary="The account's budgets and where they stand")
async def list_budgets(request: Request, actor: Admin, paging: Paging) -> Any:
    after = paging.after("budgets", [], actor)

    def look(tx: Tx) -> list[dict[str, Any]]:
        return standing(tx, actor.account_id, after=after[0] if after else "", limit=paging.limit + 1)

    rows = await context_of(request).db.read(look)
    return paging.page("budgets", [], actor, rows, lambda row: [row["id"]])


@router.post("", status_code=201, response_model=Budget, summary="Set a budget")
@documents_idempotency_key
async def create_budget(request: Request, actor: Admin, said: NewBudget) -> Response:
    return await command(request, actor, said, service.create, context_of(request), actor, said, status=201)


@router.get("/{budget_id}", response_model=Budget, summary="One budget")
async def get_budget(request: Request, actor: Admin, budget_id: BudgetId) -> Any:
    return await context_of(request).db.read(service.find, actor, budget_id)


@router.patch("/{budget_id}", response_model=Budget, summary="Change a budget's amount, thresholds or mode")
async def change_budget(request: Request, actor: Admin, budget_id: BudgetId, said: BudgetChange) -> Any:
    context = context_of(request)
    return await context.db.write(service.change, context, actor, budget_id, said)


@router.delete("/{budget_id}", status_code=204, summary="Remove a budget")
async def delete_budget(request: Request, actor: Admin, budget_id: BudgetId) -> Response:
    context = context_of(request)
    await context.db.write(service.delete, context, actor, budget_id)
    return Response(status_code=204)
