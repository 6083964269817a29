"""Routes of `/api/enterprise/instances` and `/api/packages`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from framefarm.core.money import money
from framefarm.protocol.api_catalog import Instance, InstanceChange, InstancePage, PackagePage
from framefarm.server.accounts.callers import Admin, Caller
from framefarm.server.catalog import service
from framefarm.server.http.context import context_of
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer

router = APIRouter(prefix="/api", tags=["catalog"])
GiB = 1 << 30
RENDER_SOFTWARE = ["cycles", "eevee", "workbench"]


def _instance(row: service.Instance, available: dict[str, int]) -> Answer:
    """`available`: sessions that could start now, by instance type."""
    preemptible, gpu = row.preemptible_price_micros, None
    if row.gpu_count:
        memory = (row.gpu_memory_bytes or 0) / GiB
        gpu = {"model": row.gpu_model or "", "count": row.gpu_count, "memory_gib": memory}
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "cores": row.cores,
        "memory_gib": round(row.memory_bytes / GiB, 2),
        "gpu": gpu,
        "operating_system": row.operating_system,
        "price_per_hour": money(row.price_micros),
        "preemptible_price_per_hour": None if preemptible is None else money(preemptible),
        "enabled": row.enabled,
        "available": available.get(row.id),
    }


def _package(row: service.Package) -> Answer:
    return {
        "id": row.id,
        "product": row.product,
        "version": row.version,
        "release": row.release,
        "render_software": RENDER_SOFTWARE,
        "status": row.status,
        "default": row.is_default,
        "lacks": row.lacks,
    }


@router.get("/enterprise/instances", response_model=InstancePage, summary="List available instance types")
async def list_instances(request: Request, actor: Caller, paging: Paging) -> Answer:
    after = paging.after("instances", [], actor)
    rows = await context_of(request).db.read(
        service.list_instances, actor.account_id, disabled_too=actor.is_admin
    )
    available = request.app.state.available()
    start = after[0] if after else 0
    shown = [(i, _instance(r, available)) for i, r in enumerate(rows)][start : start + paging.limit + 1]
    answer = paging.page("instances", [], actor, shown, lambda row: [row[0] + 1])
    return answer | {"data": [r for _, r in answer["data"]]}


@router.patch(
    "/enterprise/instances/{instance_id}",
    response_model=Instance,
    summary="Enable or disable an instance type for your account",
)
async def switch_instance(
    request: Request, actor: Admin, instance_id: Annotated[str, Path(max_length=200)], body: InstanceChange
) -> Answer:
    row = await context_of(request).db.write(service.switch_instance, actor, instance_id, body.enabled)
    return _instance(row, request.app.state.available())


@router.get("/packages", response_model=PackagePage, summary="List available software packages")
async def list_packages(request: Request, actor: Caller, paging: Paging) -> Answer:
    after = paging.after("packages", [], actor)
    start = after[0] if after else 0
    rows = await context_of(request).db.read(service.list_packages)
    shown = [(i, _package(r)) for i, r in enumerate(rows)][start : start + paging.limit + 1]
    answer = paging.page("packages", [], actor, shown, lambda row: [row[0] + 1])
    return answer | {"data": [r for _, r in answer["data"]]}
