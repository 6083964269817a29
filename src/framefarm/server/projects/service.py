"""Projects: their names are unique within an account; each is active or archived."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from framefarm.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from framefarm.protocol.api_catalog import ProjectChange
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.projects.tables import projects
from framefarm.server.rows import ProjectRow
from framefarm.server.tenancy import scoped

StatusFilter = Literal["active", "archived", "all"]


def _clean(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidInput.of("name", "must be 1 to 100 printable characters", name)
    return name


def create(tx: Tx, account_id: str, user_id: str, name: str, actor: Actor | str) -> ProjectRow:
    """Create an active project. Raises InvalidInput, Conflict."""
    name = _clean(name)
    _must_be_free(tx, account_id, name)
    project_id = new_id("prj")
    tx.conn.execute(
        sa.insert(projects).values(
            id=project_id, account_id=account_id, name=name, status="active", created_ms=tx.now_ms,
            created_by=user_id,
        )
    )  # fmt: skip
    audit(tx, actor, "project.create", project_id, account_id=account_id, after={"name": name})
    return find(tx, account_id, project_id)


def create_default(tx: Tx, account_id: str, user_id: str) -> None:
    """Create the project `default` of the first account."""
    create(tx, account_id, user_id, "default", "system")


def _must_be_free(tx: Tx, account_id: str, name: str) -> None:
    query = scoped(sa.select(projects.c.status), projects, account_id).where(projects.c.name == name)
    status = tx.conn.execute(query).scalar()
    if status is not None:
        raise Conflict(f"There is a project {name!r} already; it is {status}.", state=status)


def find(tx: Tx, account_id: str, project_id: str) -> ProjectRow:
    """Project of one account. Raises NotFound."""
    query = scoped(sa.select(projects), projects, account_id).where(projects.c.id == project_id)
    project = tx.row_or_none(ProjectRow, query)
    if project is None:
        raise NotFound(f"There is no project {project_id}.")
    return project


def list_projects(tx: Tx, account_id: str, status: StatusFilter, after: str, limit: int) -> list[ProjectRow]:
    """The account's projects of that status, oldest first, from behind the id `after`."""
    query = scoped(sa.select(projects), projects, account_id).where(projects.c.id > after)
    if status != "all":
        query = query.where(projects.c.status == status)
    return tx.rows(ProjectRow, query.order_by(projects.c.id).limit(limit))


def change(tx: Tx, actor: Actor, project_id: str, body: ProjectChange) -> ProjectRow:
    """Archive, restore or rename a project. Jobs of an archived project run on.

    Raises NotFound, InvalidInput, Conflict (the name is taken), and NotAllowed: a member may only rename, and
    only projects that the member created.
    """
    project = find(tx, actor.account_id, project_id)
    status_of_action = {"archive": "archived", "restore": "active", None: None}[body.action]
    if body.status and status_of_action and body.status != status_of_action:
        raise InvalidInput.of("status", f"is {body.status}, but the action is {body.action}", body.status)
    status = body.status or status_of_action
    if status is None and body.name is None:
        raise InvalidInput.of("status", "give a status (archived, active), an action or a name", None)
    values: dict[str, str] = {}
    if status is not None and status != project.status:
        values["status"] = status
    if body.name is not None and _clean(body.name) != project.name:
        values["name"] = _clean(body.name)
        _must_be_free(tx, actor.account_id, values["name"])
    if not values:
        return project
    if not actor.is_admin and ("status" in values or project.created_by != actor.user_id):
        raise NotAllowed("Only an admin of the account may archive, restore or rename projects of others.")
    update = scoped(sa.update(projects), projects, actor.account_id).where(projects.c.id == project_id)
    tx.conn.execute(update.values(values))
    before = {name: getattr(project, name) for name in values}
    audit(tx, actor, "project.change", project_id, before=before, after=values)
    return find(tx, actor.account_id, project_id)


def project_for_job(tx: Tx, account_id: str, name: str) -> ProjectRow:
    """The active project of that name. Raises InvalidInput (unknown), Conflict (archived)."""
    query = scoped(sa.select(projects), projects, account_id).where(projects.c.name == name)
    project = tx.row_or_none(ProjectRow, query)
    if project is None:
        active = scoped(sa.select(projects.c.name), projects, account_id)
        active = active.where(projects.c.status == "active").order_by(projects.c.name).limit(20)
        known = ", ".join(tx.conn.execute(active).scalars()) or "none"
        raise InvalidInput.of("project", f"there is no such project; there are: {known}", name)
    if project.status != "active":
        raise Conflict(f"The project {name!r} is archived: restore it first.", state="archived")
    return project
