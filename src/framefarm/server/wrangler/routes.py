"""`/api/wrangler/rules`: rules of an account, for its admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response

from framefarm.protocol.api_wrangler import NewRule, Rule, RuleChange, RulePage
from framefarm.server.accounts.callers import Admin
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import TAKES_KEY
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer
from framefarm.server.wrangler import service

router = APIRouter(prefix="/api/wrangler/rules", tags=["wrangler"])
RuleId = Annotated[str, Path(max_length=100)]


@router.get("", response_model=RulePage, summary="The account's wrangler rules and their actions")
async def list_rules(request: Request, actor: Admin, paging: Paging) -> Answer:
    after = paging.after("rules", [], actor)
    rows = await context_of(request).db.read(
        service.listing, actor.account_id, after[0] if after else "", paging.limit + 1
    )
    return paging.page("rules", [], actor, rows, lambda row: [row["id"]])


@router.post(
    "", status_code=201, response_model=Rule, summary="Make a wrangler rule", openapi_extra=TAKES_KEY
)
async def create_rule(request: Request, actor: Admin, body: Annotated[NewRule, Body()]) -> Response:
    return await command(request, actor, body, service.create, actor, body, status=201)


@router.get("/{rule_id}", response_model=Rule, summary="One wrangler rule")
async def get_rule(request: Request, actor: Admin, rule_id: RuleId) -> Answer:
    return await context_of(request).db.read(service.find, actor, rule_id)


@router.patch("/{rule_id}", response_model=Rule, summary="Switch a wrangler rule on or off")
async def change_rule(request: Request, actor: Admin, rule_id: RuleId, body: RuleChange) -> Answer:
    return await context_of(request).db.write(service.change, actor, rule_id, body)


@router.delete("/{rule_id}", status_code=204, summary="Remove a wrangler rule")
async def delete_rule(request: Request, actor: Admin, rule_id: RuleId) -> Response:
    await context_of(request).db.write(service.delete, actor, rule_id)
    return Response(status_code=204)
