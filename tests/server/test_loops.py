"""The farm's own loops continue after failures, cancellations and slow work."""

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


def test_a_failed_loop_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "AGAIN_SECONDS", 0.0)
    starts: list[int] = []

    async def main() -> None:
        restarted = asyncio.Event()

        async def loop() -> None:
            starts.append(len(starts))
            if len(starts) == 1:
                raise ConnectionError("the database cannot be reached")
            restarted.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(app._keep_running(loop))
        await asyncio.wait_for(restarted.wait(), 60)
        await app._cancel([task])
        assert task.cancelled()

    asyncio.run(main())
    assert starts == [0, 1]


def test_a_cancellation_simultaneous_with_a_wake_up_is_not_lost() -> None:
    async def main() -> None:
        hub = WakeHub()
        hub.attach(asyncio.get_running_loop())
        listening = asyncio.Event()

        async def loop() -> None:
            async with hub.listen("webhooks") as woken:
                listening.set()
                while True:
                    await woken.wait(60)

        task = asyncio.create_task(loop())
        await listening.wait()
        await asyncio.sleep(0)
        hub._set(("webhooks",))
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(main())


def test_a_scene_whose_files_cannot_be_read_does_not_stop_other_scenes(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.upload().status_code == 200
    first, other = (site.ask("POST", "/api/jobs", json=site.payload()).json()["id"] for _ in range(2))
    record = SceneRecord(SCENE, FrameSet.from_text("1-9"), FrameSet.from_text(""), {"path": SCENE}, [])

    def read(_context: AppContext, job: JobRow, _offers: object) -> SceneRecord:
        if job.id == first:
            raise OSError("the disk fails")
        return record

    monkeypatch.setattr(scene_reading, "read_scene", read)

    async def main() -> None:
        site.context.hub.attach(asyncio.get_running_loop())
        async with site.context.hub.listen("dispatch") as settled:
            task = asyncio.create_task(scene_reading.run_loop(site.context))
            assert await settled.wait(60)
            await app._cancel([task])

    asyncio.run(main())
    assert site.row(job_state, job_state.c.job_id == other)["scene_read"]
    assert not site.row(job_state, job_state.c.job_id == first)["scene_read"]


def test_a_slow_scene_does_not_stop_scenes_of_other_accounts(
    site: ApiClient, other: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids: list[str] = []
    for client, count in ((site, 2), (other, 1)):
        assert client.upload().status_code == 200
        job_ids += [client.ask("POST", "/api/jobs", json=client.payload()).json()["id"] for _ in range(count)]
    record = SceneRecord(SCENE, FrameSet.from_text("1-9"), FrameSet.from_text(""), {"path": SCENE}, [])
    other_was_read, started = threading.Event(), []

    def read(_context: AppContext, job: JobRow, _offers: object) -> SceneRecord:
        started.append(job.id)
        if job.id == job_ids[0]:
            assert other_was_read.wait(30), "the other account's scene waits for this one"
        if job.id == job_ids[2]:
            other_was_read.set()
        return record

    monkeypatch.setattr(scene_reading, "read_scene", read)
    monkeypatch.setattr(scene_reading, "scenes_at_once", lambda: 2)

    async def main() -> None:
        site.context.hub.attach(asyncio.get_running_loop())
        async with site.context.hub.listen("dispatch") as woken:
            task = asyncio.create_task(scene_reading.run_loop(site.context))
            while not all(r["scene_read"] for r in site.rows(job_state)):
                assert await woken.wait(60)
            await app._cancel([task])

    asyncio.run(main())
    assert started.index(job_ids[1]) > started.index(job_ids[0]), (
        "one account's scenes are read one after the other"
    )
