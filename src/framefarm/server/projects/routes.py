"""`/api/projects`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response

from framefarm.protocol.api_catalog import NewProject, Project, ProjectChange, ProjectPage
from framefarm.server.accounts.callers import Caller, Writer
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import idempotent
from framefarm.server.http.paging import Paging
from framefarm.server.projects import service
from framefarm.server.timestamps import iso

router = APIRouter(prefix="/api/projects", tags=["projects"])
ProjectId = Annotated[str, Path(max_length=100)]


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "status": row["status"],
        "created_at": iso(row["created_ms"]),
    }


@router.get("", response_model=ProjectPage, summary="List all active projects")
async def list_projects(
    request: Request, actor: Caller, paging: Paging, status: Literal["active", "archived", "all"] = "active"
) -> Any:
    after = paging.after("projects", [status], actor)
    rows = await context_of(request).db.read(
        service.listing, actor.account_id, status, after[0] if after else "", paging.limit + 1
    )
    return paging.page("projects", [status], actor, [_shape(r) for r in rows], lambda row: [row["id"]])


@router.post("", status_code=201, response_model=Project, summary="Create a new project")
@idempotent
async def create_project(request: Request, actor: Writer, said: NewProject) -> Response:
    def work(tx: Tx) -> dict[str, Any]:
        row = service.create(tx, actor.account_id, actor.user_id, said.name, actor.name, actor.request_id)
        return _shape(row)

    return await command(request, actor, said, work, status=201)


@router.get("/{project_id}", response_model=Project, summary="One project")
async def get_project(request: Request, actor: Caller, project_id: ProjectId) -> Any:
    return _shape(await context_of(request).db.read(service.find, actor.account_id, project_id))


@router.patch("/{project_id}", response_model=Project, summary="Archive, restore or rename a project")
async def change_project(request: Request, actor: Writer, project_id: ProjectId, said: ProjectChange) -> Any:
    return _shape(await context_of(request).db.write(service.change, actor, project_id, said))
