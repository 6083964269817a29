"""Several dispatchers on one PostgreSQL: one leads, the others wait, and the database's clock counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient, a_farm, a_site
from fake_engine import FakeEngine

from framefarm.server.context import AppContext, WakeHub
from framefarm.server.database import Database, ServerClock
from framefarm.server.dispatch.dispatcher import Dispatcher
from framefarm.server.dispatch.leader import LeaderLease, NotLeader
from framefarm.server.dispatch.tables import leaders
from framefarm.server.sessions.tables import leases, sessions

LEASE_SECONDS = 1.0


@pytest.fixture
def url(postgres: Any) -> Iterator[str]:
    made = postgres(True)
    yield made
    postgres.drop(made)


@pytest.fixture
def farms(tmp_path: Path, url: str) -> Iterator[tuple[AppContext, AppContext]]:
    """One farm as two processes, each with its own context."""
    with a_farm(tmp_path, url) as one:
        one.settings.lease_seconds = LEASE_SECONDS
        other = replace(one, db=Database(url), hub=WakeHub())
        yield one, other
        other.db.close()


class Pair:
    """Two running dispatchers over one engine."""

    def __init__(self, farms: tuple[AppContext, AppContext]) -> None:
        self.engine = FakeEngine(4)
        self.both = [Dispatcher(context, self.engine, f"machine-{n}") for n, context in enumerate(farms)]
        self.ticks = [0, 0]
        self.ticked = asyncio.Event()
        for n, dispatcher in enumerate(self.both):
            dispatcher.tick = self._counted(n, dispatcher.tick)  # type: ignore[method-assign]

    def _counted(self, n: int, tick: Callable[[], Any]) -> Callable[[], Any]:
        async def counted() -> float:
            pause: float = await tick()
            self.ticks[n] += 1
            self.ticked.set()
            return pause

        return counted

    async def until(self, this: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is checked after each tick of either dispatcher."""
        async with asyncio.timeout(60):
            while not this():
                self.ticked.clear()
                await self.ticked.wait()


def row_of(context: AppContext) -> Any:
    return context.db.read_now(lambda tx: tx.conn.execute(sa.select(leaders)).mappings().one())


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_only_one_leads_and_the_other_follows_at_once_when_it_stops(
    farms: tuple[AppContext, AppContext],
) -> None:
    pair = Pair(farms)
    with a_site(farms[0]) as site:
        site.submit(frame_range="1-9")

    async def main() -> None:
        first = asyncio.create_task(pair.both[0].run())
        await pair.until(lambda: pair.ticks[0] > 0)
        second = asyncio.create_task(pair.both[1].run())
        seen = pair.ticks[0]
        await pair.until(lambda: pair.ticks[0] > seen + 12)  # longer than a lease, at a lease / 10 each
        assert (pair.ticks[1], pair.both[1].lead.epoch) == (0, 0)
        assert (row_of(farms[0])["holder"], row_of(farms[0])["epoch"]) == ("machine-0", 1)
        await stop(first)
        await pair.until(lambda: pair.ticks[1] > 0)
        assert (row_of(farms[0])["holder"], row_of(farms[0])["epoch"]) == ("machine-1", 2)
        await stop(second)

    asyncio.run(main())


def test_when_the_leader_dies_the_other_leads_after_a_lease_and_every_session_gets_a_full_one(
    farms: tuple[AppContext, AppContext],
) -> None:
    """The leader ends as a killed process does, without releasing the lead."""
    one, other = farms
    first, second = (LeaderLease(context.settings, f"machine-{n}") for n, context in enumerate(farms))
    one.db.write_now(first.acquire)
    with a_site(one) as site:
        runner = site.runner(site.submit(frame_range="1-9")["id"])
    one.db.write_now(lambda tx: tx.conn.execute(sa.update(leases).values(expires_ms=tx.now_ms)))
    tries = 0
    while True:
        try:
            other.db.write_now(second.acquire)
            break
        except NotLeader:
            tries += 1
    row = row_of(one)
    assert tries > 0
    assert (row["holder"], row["epoch"]) == ("machine-1", 2)
    assert second.since_ms - first.since_ms >= LEASE_SECONDS * 1000
    expires = other.db.read_now(lambda tx: tx.conn.execute(sa.select(leases.c.expires_ms)).scalar_one())
    assert expires == second.since_ms + LEASE_SECONDS * 1000
    for deposed in (first.renew, first.require):
        with pytest.raises(NotLeader):
            one.db.write_now(deposed)
    one.db.write_now(first.release)
    other.db.write_now(second.renew)
    assert runner.sync().tasks


def test_dispatcher_that_restarts_under_its_name_leads_at_once(farms: tuple[AppContext, AppContext]) -> None:
    one, other = farms
    one.db.write_now(LeaderLease(one.settings, "machine").acquire)
    again = LeaderLease(other.settings, "machine")
    other.db.write_now(again.acquire)
    assert again.epoch == 2


def test_of_two_dispatchers_that_start_at_once_one_leads(farms: tuple[AppContext, AppContext]) -> None:
    for _ in range(5):
        farms[0].db.write_now(lambda tx: tx.conn.execute(sa.delete(leaders)))
        both = [LeaderLease(context.settings, f"machine-{n}") for n, context in enumerate(farms)]
        took = [context.db.submit(lead.acquire) for context, lead in zip(farms, both, strict=True)]
        failed = [f.exception(60) for f in took]
        assert sorted(type(f) for f in failed if f is not None) == [NotLeader]


def test_leases_are_judged_by_the_databases_clock(
    farms: tuple[AppContext, AppContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's clock is a day ahead."""
    one, other = farms
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 86_400 * 10**9)
    first, second = (LeaderLease(context.settings, f"machine-{n}") for n, context in enumerate(farms))
    one.db.write_now(first.acquire)
    with pytest.raises(NotLeader):
        other.db.write_now(second.acquire)
    assert abs(first.since_ms - real() // 1_000_000) < 60_000
    assert abs(one.db.clock_ms() - other.db.clock_ms()) < 1000


def test_server_clock_does_not_step_back_by_a_drift(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine(url)
    clock = ServerClock(engine)
    began = clock()
    stopped = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: stopped)  # stops the clock of this process
    before = clock()
    assert before >= began
    clock._server_ms -= 500
    assert clock() == before
    clock._server_ms -= 10_000_000
    assert clock() == before - 10_000_500
    clock._read_at -= 10
    clock.refresh()
    assert clock() >= before
    engine.dispose()


def test_a_follower_starts_no_session_and_stops_none(farms: tuple[AppContext, AppContext]) -> None:
    pair = Pair(farms)
    with a_site(farms[0]) as site:
        site.submit(frame_range="1-9", max_sessions=2)
        row = ApiClient.rows

        async def main() -> None:
            tasks = [asyncio.create_task(d.run()) for d in pair.both]
            await pair.until(lambda: len(pair.engine.started) == 2)
            seen = sum(pair.ticks)
            await pair.until(lambda: sum(pair.ticks) > seen + 20)
            for task in tasks:
                await stop(task)

        asyncio.run(main())
        assert sorted(map(bool, pair.ticks)) == [False, True]
        assert len(pair.engine.started) == len(row(site, sessions)) == 2
        assert pair.engine.stopped == []
