"""Packages: the features that they lack, and the rows of older farms."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from api_client import ApiClient

from framefarm.core.errors import InvalidInput
from framefarm.sandboxing import userland
from framefarm.server import schema
from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.tables import packages
from framefarm.server.database import sqlite_url
from framefarm.server.submission import fitness


def test_a_package_tells_what_its_blender_lacks(site: ApiClient) -> None:
    for number, (kind, lacks) in enumerate([("bpy", None), ("bpy", []), ("executable", ["usd", "ocean"])]):
        site.context.db.write_now(
            catalog.register_package,
            id=f"blender-9-{number}",
            kind=kind,
            path="/nowhere",
            release=f"9.{number}.0",
            default=False,
            lacks=lacks,
        )
    told = {p["id"]: p["lacks"] for p in site.get("/api/packages")["data"]}
    assert told == {
        "blender-9-0": ["fluid_simulation"],
        "blender-9-1": [],
        "blender-9-2": ["ocean", "usd"],
        "blender-4-2": None,
    }


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_migration_0009_tells_what_the_wheels_lack_that_there_are(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = (
        sqlite_url(tmp_path / "old.db") if backend == "sqlite" else request.getfixturevalue("postgres")(False)
    )
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    schema.upgrade(engine, "0008")
    with engine.begin() as conn:
        old = sa.MetaData()
        old.reflect(conn, only=["packages"])
        rows = [{"id": kind, "kind": kind} for kind in ("bpy", "executable")]
        known = {"version": "4.2", "release": "4.2.23", "path": "/x", "is_default": False, "installed_ms": 1}
        conn.execute(sa.insert(old.tables["packages"]), [row | known for row in rows])
    schema.upgrade(engine)
    with engine.connect() as conn:
        lacks = dict(conn.execute(sa.select(packages.c.id, packages.c.lacks)).all())
    assert lacks == {"bpy": ["fluid_simulation"], "executable": None}
    engine.dispose()


def test_a_package_with_a_userland_is_refused_without_bubblewrap(site: ApiClient, tmp_path: Path) -> None:
    tree, python = tmp_path / "tree", tmp_path / "bpy-5.2.3" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "bpy-5.2.3" / userland.LINK).write_text(f"{tree}\n")
    values = {"id": "blender-5-2", "kind": "bpy", "path": str(python), "release": "5.2.3", "default": False}
    site.context.db.write_now(catalog.register_package, **values)
    assert site.get("/api/packages")["data"][0]["status"] == "missing"  # its tree is not there
    tree.mkdir()
    (tree / userland.MARKER).touch()
    assert site.get("/api/packages")["data"][0]["status"] == "available"
    assert site.context.db.read_now(catalog.package_for, "5.2").id == "blender-5-2"
    with pytest.raises(InvalidInput, match=r"blender-5-2 has its own userland.*--sandbox none"):
        site.context.db.read_now(partial(catalog.package_for, bubblewrap=False), "5.2")
    listed = site.context.db.read_now(catalog.list_packages)
    assert [offer.id for offer in fitness.offers_of(listed)] == ["blender-5-2", "blender-4-2"]
    assert [offer.id for offer in fitness.offers_of(listed, bubblewrap=False)] == ["blender-4-2"]
    archive = {"id": "blender-5-2-archive", "kind": "archive", "path": __file__, "release": "5.2.1"}
    site.context.db.write_now(catalog.register_package, **archive, default=False)
    found = site.context.db.read_now(partial(catalog.package_for, bubblewrap=False), "5.2")
    assert found.id == "blender-5-2-archive"


@pytest.fixture
def offered(site: ApiClient, tmp_path: Path) -> ApiClient:
    """A farm with a wheel and a newer archive of 4.2, and an archive alone of 3.6."""
    blender = tmp_path / "program"
    blender.touch()
    for package, kind, release, lacks in (
        ("blender-4-2", "bpy", "4.2.23", ["fluid_simulation"]),
        ("blender-4-2-archive", "archive", "4.2.25", ["usd"]),
        ("blender-3-6-archive", "archive", "3.6.1", []),
    ):
        values = {"id": package, "kind": kind, "path": str(blender), "release": release, "lacks": lacks}
        site.context.db.write_now(catalog.register_package, **values, default=False)
    return site


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ("4.2", "blender-4-2"),
        ("blender-4-2", "blender-4-2"),
        ("4.2.25", "blender-4-2-archive"),
        ("blender-4-2-archive", "blender-4-2-archive"),
        ("3.6", "blender-3-6-archive"),
        ("blender-3-6", "blender-3-6-archive"),
    ],
)
def test_a_series_means_the_wheel_if_there_is_one(offered: ApiClient, named: str, chosen: str) -> None:
    assert offered.context.db.read_now(catalog.package_for, named).id == chosen
