"""The farm's own loops go on, whatever befell them."""

from __future__ import annotations

import asyncio

import pytest

from framefarm.server import app


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
