"""The farm's own loops go on, whatever befell them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from api_client import SCENE, ApiClient

from framefarm.core.frames import FrameSet
from framefarm.server import app
from framefarm.server.context import AppContext, WakeHub
from framefarm.server.jobs.records import SceneRecord
from framefarm.server.jobs.tables import job_state
from framefarm.server.rows import JobRow
from framefarm.server.submission import scene_reading


def test_a_loop_that_fails_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "AGAIN_SECONDS", 0.0)
    starts: list[int] = []

    async def main() -> None:
        works = asyncio.Event()

        async def loop() -> None:
            starts.append(len(starts))
            if len(starts) == 1:
                raise ConnectionError("the database was away")
            works.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(app._for_ever(loop))
        await asyncio.wait_for(works.wait(), 60)
        await app._end([task])
        assert task.cancelled()

    asyncio.run(main())
    assert starts == [0, 1]


def test_an_end_that_meets_a_wake_up_is_not_lost() -> None:
    async def main() -> None:
        hub = WakeHub()
        hub.attach(asyncio.get_running_loop())
        waits = asyncio.Event()

        async def loop() -> None:
            async with hub.listen("webhooks") as woken:
                waits.set()
                while True:
                    await woken.wait(60)

        task = asyncio.create_task(loop())
        await waits.wait()
        await asyncio.sleep(0)
        hub._set(("webhooks",))
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(main())


def test_a_scene_that_the_farm_cannot_read_holds_up_no_other(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is on a disk that fails, say."""
    assert site.upload().status_code == 200
    first, other = (site.ask("POST", "/api/jobs", json=site.payload()).json()["id"] for _ in range(2))
    record = SceneRecord(SCENE, FrameSet.from_text("1-9"), FrameSet.from_text(""), {"path": SCENE}, [])

    def read(_context: AppContext, job: JobRow) -> SceneRecord:
        if job.id == first:
            raise OSError("the disk fails")
        return record

    monkeypatch.setattr(scene_reading, "read_scene", read)

    async def main() -> None:
        site.context.hub.attach(asyncio.get_running_loop())
        async with site.context.hub.listen("dispatch") as settled:
            task = asyncio.create_task(scene_reading.run_loop(site.context))
            assert await settled.wait(60)
            await app._end([task])

    asyncio.run(main())
    assert site.row(job_state, job_state.c.job_id == other)["scene_read"]
    assert not site.row(job_state, job_state.c.job_id == first)["scene_read"]


def test_a_scene_that_takes_long_holds_up_no_other_accounts(
    site: ApiClient, other: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine: list[str] = []
    for who, count in ((site, 2), (other, 1)):
        assert who.upload().status_code == 200
        mine += [who.ask("POST", "/api/jobs", json=who.payload()).json()["id"] for _ in range(count)]
    record = SceneRecord(SCENE, FrameSet.from_text("1-9"), FrameSet.from_text(""), {"path": SCENE}, [])
    others_was_read, tried = threading.Event(), []

    def read(_context: AppContext, job: JobRow) -> SceneRecord:
        tried.append(job.id)
        if job.id == mine[0]:
            assert others_was_read.wait(30), "the other account's scene waits for this one"
        if job.id == mine[2]:
            others_was_read.set()
        return record

    monkeypatch.setattr(scene_reading, "read_scene", read)
    monkeypatch.setattr(scene_reading, "scenes_at_once", lambda: 2)

    async def main() -> None:
        site.context.hub.attach(asyncio.get_running_loop())
        async with site.context.hub.listen("dispatch") as settled:
            task = asyncio.create_task(scene_reading.run_loop(site.context))
            while not all(r["scene_read"] for r in site.rows(job_state)):
                assert await settled.wait(60)
            await app._end([task])

    asyncio.run(main())
    assert tried.index(mine[1]) > tried.index(mine[0]), "of one account one after the other"
