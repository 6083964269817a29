"""Routes of `/api/projects`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from framefarm.protocol.api_catalog import NewProject, Project, ProjectChange, ProjectPage
from framefarm.server.accounts.callers import Caller, Writer
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import TAKES_KEY
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer
from framefarm.server.projects import service
from framefarm.server.rows import ProjectRow
from framefarm.server.timestamps import iso

router = APIRouter(prefix="/api/projects", tags=["projects"])
ProjectId = Annotated[str, Path(max_length=100)]


def _project(project: ProjectRow) -> Answer:
    return {
        "id": project.id,
        "name": project.name,
        "status": project.status,
        "created_at": iso(project.created_ms),
    }


@router.get("", response_model=ProjectPage, summary="List all active projects")
async def list_projects(
    request: Request, actor: Caller, paging: Paging, status: service.StatusFilter = "active"
) -> Answer:
    after = paging.after("projects", [status], actor)
    rows = await context_of(request).db.read(
        service.list_projects, actor.account_id, status, after[0] if after else "", paging.limit + 1
    )
    return paging.page("projects", [status], actor, [_project(r) for r in rows], lambda row: [row["id"]])


@router.post(
    "", status_code=201, response_model=Project, summary="Create a new project", openapi_extra=TAKES_KEY
)
async def create_project(request: Request, actor: Writer, body: NewProject) -> Response:
    def work(tx: Tx) -> Answer:
        return _project(service.create(tx, actor.account_id, actor.user_id, body.name, actor))

    return await command(request, actor, body, work, status=201)


@router.get("/{project_id}", response_model=Project, summary="One project")
async def get_project(request: Request, actor: Caller, project_id: ProjectId) -> Answer:
    return _project(await context_of(request).db.read(service.find, actor.account_id, project_id))


@router.patch("/{project_id}", response_model=Project, summary="Archive, restore or rename a project")
async def change_project(
    request: Request, actor: Writer, project_id: ProjectId, body: ProjectChange
) -> Answer:
    return _project(await context_of(request).db.write(service.change, actor, project_id, body))
