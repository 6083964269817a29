"""A farm on SQLite and on a real PostgreSQL, a client of its API, and the farm's loops turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from farm_site import Site, token_of
from pydantic import SecretStr

from framefarm.server import app as farm_app
from framefarm.server import opening
from framefarm.server.accounts import service as accounts
from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.farm import Farm
from framefarm.server.projects import service as projects
from framefarm.server.settings import Settings


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None: SQLite in the data directory."""
    if request.param == "sqlite":
        return None
    make: Callable[[bool], str] = request.getfixturevalue("postgres")
    return make(True)


@pytest.fixture
def farm(tmp_path: Path, database_url: str | None) -> Iterator[Farm]:
    settings = Settings(
        data=tmp_path / "farm",
        database_url=SecretStr(database_url) if database_url else None,
        admin_email="ada@studio.example",
        admin_password=SecretStr("correct horse battery"),
        free_disk_floor_bytes=0,
    )
    opened = opening.open_farm(settings)
    blender = tmp_path / "blender"
    blender.touch()
    opened.db.write_now(
        catalog.register_package,
        id="blender-4-2",
        kind="executable",
        path=str(blender),
        release="4.2.23",
        default=True,
    )
    yield opened
    opened.db.close()


@pytest.fixture
def site(farm: Farm) -> Iterator[Site]:
    token, account_id = farm.db.write_now(token_of, farm, "ada@studio.example")
    with asyncio.Runner() as loop:
        made = Site(farm, loop, farm_app.create_app(farm), token, account_id, "ada@studio.example", "")
        made.instance = sorted(r["id"] for r in made.rows(instance_types))[0]
        yield made


@pytest.fixture
def other(site: Site) -> Site:
    """The same farm, seen by the admin of another account."""
    farm, email = site.farm, "eve@rival.example"

    def work(tx: Tx) -> tuple[str, str]:
        account_id = accounts.create_account(tx, "rival")
        projects.create(tx, account_id, "", "default", "operator")
        accounts.create_user(tx, account_id, email, "no password", "admin", "operator")
        return token_of(tx, farm, email)

    token, account_id = farm.db.write_now(work)
    return Site(farm, site.loop, site.app, token, account_id, email, site.instance)
