"""A client of a farm in this process, with methods that run single passes of the farm's own loops."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa
from fake_runner import FakeRunner
from pydantic import SecretStr

from framefarm.core import frame_grammar as grammar
from framefarm.core.frames import FrameSet
from framefarm.server import app as farm_app
from framefarm.server import bootstrap
from framefarm.server.accounts import service as accounts
from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.tables import instance_types
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs.records import SceneRecord
from framefarm.server.jobs.tables import jobs
from framefarm.server.outputs import publisher
from framefarm.server.rows import JobRow
from framefarm.server.settings import Settings
from framefarm.server.submission import scene_reading

SCENE = "/film/shot.blend"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def token_of(tx: Tx, context: AppContext, email: str) -> tuple[str, str]:
    """A new login's token for a user, and the id of the user's account."""
    user = accounts.user_by_email(tx, email)
    assert user is not None
    _, token = accounts.new_token(tx, context.keys, user, "login", role=user.role, expires_ms=None)
    return token, user.account_id


@dataclass
class ApiClient:
    """A client with one user's token."""

    context: AppContext
    loop: asyncio.Runner
    app: Any
    token: str
    account_id: str
    email: str
    instance: str
    address: str = "127.0.0.1"
    """The client's IP address."""

    async def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | more.pop("headers", {})
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False, client=(self.address, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://farm") as client:
            return await client.request(method, path, headers=headers, **more)

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return self.loop.run(self.call(method, path, **more))

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
        """Submit a job with its scene already read, so that its tasks can be assigned."""
        for path in more.get("upload_paths", [SCENE]):
            assert self.upload(path).status_code == 200
        answer = self.ask("POST", "/api/jobs", json=self.payload(**more))
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        self.settle(job["id"])
        return job

    def settle(self, job_id: str) -> None:
        """Store the result of reading a job's scene, as the scene reader does."""
        job = JobRow(**self.row(jobs, jobs.c.id == job_id))
        frames = grammar.parse(job.request["frame_range"])
        assert isinstance(frames, FrameSet)
        scouts = grammar.resolve_scouts(job.request["scout_frames"], frames)
        record = SceneRecord(SCENE, frames, scouts, {"path": SCENE}, [])
        self.context.db.write_now(scene_reading.record_scene, job, record)

    def runner(self, job_id: str) -> FakeRunner:
        """A runner of a new session for the job, which has sent its hello."""
        return FakeRunner.start(self.context, job_id)

    def publish(self) -> None:
        """Run one pass of the publisher."""
        rows = self.context.db.read_now(publisher.unpublished_files)
        result = publisher.make_final(self.context, rows)
        self.context.db.write_now(publisher.record_result, self.context, result)
        publisher.remove_staged(self.context, result.published)

    def render(self, job_id: str) -> list[int]:
        """Render and publish all tasks that are assigned now; returns the frames in rendering order."""
        runner = self.runner(job_id)
        rendered = runner.render_all()
        runner.end()
        self.publish()
        return rendered

    def status(self, job_id: str) -> str:
        text: str = self.get(f"/api/jobs/{job_id}")["status"]
        return text

    def member(self, email: str = "max@studio.example") -> ApiClient:
        return member_of(self, email)

    def rows(self, table: sa.Table, *where: Any) -> list[Any]:
        """Rows of a table, as mappings."""

        def work(tx: Tx) -> list[Any]:
            return list(tx.conn.execute(sa.select(table).where(*where)).mappings())

        return self.context.db.read_now(work)

    def row(self, table: sa.Table, *where: Any) -> Any:
        """The only such row."""
        (row,) = self.rows(table, *where)
        return row


def member_of(site: ApiClient, email: str) -> ApiClient:
    """A client with the token of a new member of the site's account."""

    def work(tx: Tx) -> tuple[str, str]:
        accounts.create_user(tx, site.account_id, email, "no password", "member", "operator")
        return token_of(tx, site.context, email)

    token, account_id = site.context.db.write_now(work)
    return ApiClient(site.context, site.loop, site.app, token, account_id, email, site.instance)


@contextlib.contextmanager
def a_farm(folder: Path, database_url: str | None) -> Iterator[AppContext]:
    """A farm with one Blender; `database_url` None: SQLite in its folder."""
    settings = Settings(
        data=folder / "farm",
        database_url=SecretStr(database_url) if database_url else None,
        admin_email="ada@studio.example",
        admin_password=SecretStr("correct horse battery"),
        free_disk_floor_bytes=0,
    )
    opened = bootstrap.open_farm(settings)
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


@contextlib.contextmanager
def a_site(context: AppContext) -> Iterator[ApiClient]:
    """A client with the token of the farm's first admin."""
    token, account_id = context.db.write_now(token_of, context, "ada@studio.example")
    with asyncio.Runner() as loop:
        site = ApiClient(
            context, loop, farm_app.create_app(context), token, account_id, "ada@studio.example", ""
        )
        site.instance = sorted(r["id"] for r in site.rows(instance_types))[0]
        yield site
