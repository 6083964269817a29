"""Projects: names that are unique within an account, active or archived."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from framefarm.protocol.api_catalog import ProjectChange
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.projects.tables import projects
from framefarm.server.tenancy import scoped


def _clean(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidInput.of("name", "must be 1 to 100 printable characters", name)
    return name


def create(tx: Tx, account_id: str, user_id: str, name: str, actor: str, request_id: str = "") -> Any:
    """Raises InvalidInput, Conflict."""
    name = _clean(name)
    _must_be_free(tx, account_id, name)
    project_id = new_id("prj")
    tx.conn.execute(
        sa.insert(projects).values(
            id=project_id, account_id=account_id, name=name, status="active", created_ms=tx.now_ms,
            created_by=user_id,
        )
    )  # fmt: skip
    audit(
        tx,
        actor,
        "project.create",
        project_id,
        account_id=account_id,
        request_id=request_id,
        after={"name": name},
    )
    return find(tx, account_id, project_id)


def create_default(tx: Tx, account_id: str, user_id: str) -> None:
    """The project that every account begins with."""
    create(tx, account_id, user_id, "default", "system")


def _must_be_free(tx: Tx, account_id: str, name: str) -> None:
    query = scoped(sa.select(projects.c.status), projects, account_id).where(projects.c.name == name)
    status = tx.conn.execute(query).scalar()
    if status is not None:
        raise Conflict(f"There is a project {name!r} already; it is {status}.", state=status)


def find(tx: Tx, account_id: str, project_id: str) -> Any:
    query = scoped(sa.select(projects), projects, account_id).where(projects.c.id == project_id)
    row = tx.conn.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no project {project_id}.")
    return row


def listing(tx: Tx, account_id: str, status: str, after: str, limit: int) -> list[Any]:
    """Oldest first; `status` is active, archived or all."""
    query = scoped(sa.select(projects), projects, account_id).where(projects.c.id > after)
    if status != "all":
        query = query.where(projects.c.status == status)
    return list(tx.conn.execute(query.order_by(projects.c.id).limit(limit)).mappings())


def change(tx: Tx, actor: Actor, project_id: str, said: ProjectChange) -> Any:
    """Archive, restore (admins) and rename. Archiving leaves running jobs alone."""
    row = find(tx, actor.account_id, project_id)
    by_action = {"archive": "archived", "restore": "active", None: None}[said.action]
    if said.status and by_action and said.status != by_action:
        raise InvalidInput.of("status", f"says {said.status}, but action says {said.action}", said.status)
    status = said.status or by_action
    if status is None and said.name is None:
        raise InvalidInput.of("status", "give a status (archived, active), an action or a name", None)
    values: dict[str, Any] = {}
    if status is not None and status != row["status"]:
        values["status"] = status
    if said.name is not None and _clean(said.name) != row["name"]:
        values["name"] = _clean(said.name)
        _must_be_free(tx, actor.account_id, values["name"])
    if not values:
        return row
    if not actor.is_admin and ("status" in values or row["created_by"] != actor.user_id):
        raise NotAllowed("Only an admin of the account may archive, restore or rename projects of others.")
    mine = scoped(sa.update(projects), projects, actor.account_id).where(projects.c.id == project_id)
    tx.conn.execute(mine.values(values))
    before = {k: row[k] for k in values}
    audit(tx, actor, "project.change", project_id, before=before, after=values)
    return find(tx, actor.account_id, project_id)


def project_for_job(tx: Tx, account_id: str, name: str) -> Any:
    """The active project of that name. Raises InvalidInput (unknown), Conflict (archived)."""
    query = scoped(sa.select(projects), projects, account_id).where(projects.c.name == name)
    row = tx.conn.execute(query).mappings().one_or_none()
    if row is None:
        active = scoped(sa.select(projects.c.name), projects, account_id)
        active = active.where(projects.c.status == "active").order_by(projects.c.name).limit(20)
        known = ", ".join(tx.conn.execute(active).scalars()) or "none"
        raise InvalidInput.of("project", f"there is no such project; there are: {known}", name)
    if row["status"] != "active":
        raise Conflict(f"The project {name!r} is archived: restore it first.", state="archived")
    return row
