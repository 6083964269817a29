"""The order of events on a real PostgreSQL; messages, resumption and ends of streams."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from api_client import ApiClient

from framefarm.protocol import node as msg
from framefarm.server.accounts import service as accounts
from framefarm.server.database import Database, Tx
from framefarm.server.events import commit_horizon, service
from framefarm.server.events.commit_horizon import Horizon, Read, advance
from framefarm.server.events.streams import Stream, Streams
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import events
from framefarm.server.rows import EventRow
from framefarm.server.sessions import progress

DAY_MS = 24 * 3_600_000


def event_row(event_id: int) -> EventRow:
    return EventRow(event_id, "acc", "job", event_id, 0, "test", "job.priority", {})


# ------------------------------------------------------------------------------- the horizon


def test_rows_without_a_gap_are_passed_on_at_once() -> None:
    after, ready = advance(Horizon(4), Read([event_row(5), event_row(6)], oldest_running=9))
    assert (after, [r.id for r in ready]) == (Horizon(6), [5, 6])


def test_reader_waits_at_a_gap_until_all_older_transactions_have_ended() -> None:
    stopped, ready = advance(
        Horizon(4), Read([event_row(5), event_row(7)], oldest_running=90, newest_begun=100)
    )
    assert [r.id for r in ready] == [5]
    still, ready = advance(stopped, Read([event_row(7), event_row(8)], oldest_running=99, newest_begun=105))
    assert (ready, still.position) == ([], 5)
    filled, ready = advance(still, Read([event_row(6), event_row(7), event_row(8)], oldest_running=99))
    assert (filled, [r.id for r in ready]) == (Horizon(8), [6, 7, 8])


def test_rolled_back_id_is_skipped_and_newer_gaps_are_kept() -> None:
    stopped, _ = advance(Horizon(4), Read([event_row(6)], oldest_running=90, newest_begun=100))
    after, ready = advance(stopped, Read([event_row(6), event_row(9)], oldest_running=100, newest_begun=110))
    assert [r.id for r in ready] == [6]
    assert after == Horizon(6, 9, 110)


def test_events_that_commit_out_of_order_reach_a_global_reader_all_and_in_order(site: ApiClient) -> None:
    """Of two writers the one with the lower id commits last, which PostgreSQL allows."""
    first, second, third = (site.submit(job_title=f"job {n}")["id"] for n in range(3))
    db = site.context.db
    reader = Streams(site.context)
    site.loop.run(reader.up_to_date())
    got: list[int] = []

    async def read_once() -> None:
        read = await db.read(commit_horizon.read_events, reader.horizon)
        reader.horizon, ready = advance(reader.horizon, read)
        got.extend(r.id for r in ready)

    def change(job: str) -> None:
        assert site.ask("PATCH", f"/api/jobs/{job}", json={"priority": 77}).status_code == 200

    if db.is_sqlite:
        for job in (first, second, third):
            change(job)
            site.loop.run(read_once())
    else:
        lower_written, commit_now = threading.Event(), threading.Event()

        def slow(tx: Tx) -> None:
            state = job_states.lock(tx, first)
            state.emit(tx, "test", "job.priority", {"priority": 1})
            job_states.save(tx, state)
            lower_written.set()
            assert commit_now.wait(30)

        late = db.submit(slow)
        assert lower_written.wait(30)
        change(second)
        change(third)
        for _ in range(3):
            site.loop.run(read_once())
        assert got == []  # the newer rows are committed, but an older one may still follow
        commit_now.set()
        late.result(30)
        for _ in range(3):
            site.loop.run(read_once())
    known = [r["id"] for r in site.rows(events) if r["data"].get("priority") in {1, 77}]
    assert got == sorted(known)
    assert len(got) == 3


def test_rolled_back_id_does_not_stop_the_reader(site: ApiClient) -> None:
    job = site.submit()["id"]
    reader = Streams(site.context)
    site.loop.run(reader.up_to_date())

    def broken(tx: Tx) -> None:
        state = job_states.lock(tx, job)
        state.emit(tx, "test", "job.priority", {"priority": 1})
        job_states.save(tx, state)
        raise LookupError

    with pytest.raises(LookupError):
        site.context.db.write_now(broken)
    site.ask("PATCH", f"/api/jobs/{job}", json={"priority": 3})
    newest = max(r["id"] for r in site.rows(events))
    for _ in range(3):
        site.loop.run(reader.run_pass())
    assert reader.position == newest


# --------------------------------------------------------------------------------- streams


@dataclass
class Follower:
    """The messages of one open stream so far, parsed."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def messages(self) -> list[dict[str, str]]:
        whole = self.text.split("\n\n")[:-1]
        parsed = []
        for block in whole:
            lines = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
            parsed.append({name: value for name, _, value in lines})
        return [m for m in parsed if m]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(m["data"]) | {"id": m["id"]} for m in self.messages if "id" in m]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(30):
            while not condition(self):
                self.changed.clear()
                with suppress(TimeoutError):  # the condition may be about the farm, which sets no event here
                    await asyncio.wait_for(self.changed.wait(), 0.02)


@asynccontextmanager
async def following(
    site: ApiClient, path: str, seen: str | None = None, **headers: str
) -> AsyncIterator[Follower]:
    """Call the ASGI application as a server would, and collect the pieces of its answer."""
    mine = Follower()
    gone = asyncio.Event()
    sent = {"authorization": f"Bearer {site.token}"} | headers
    if seen is not None:
        sent["last-event-id"] = seen
    where, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": where, "raw_path": where.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
        "client": ("127.0.0.1", 1), "server": ("farm", 80), "state": {},
    }  # fmt: skip
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            mine.status = message["status"]
            mine.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            mine.text += message.get("body", b"").decode()
            mine.ended = not message.get("more_body", False)
        mine.changed.set()

    task = asyncio.create_task(site.app(scope, receive, send))
    try:
        yield mine
    finally:
        gone.set()
        await task


@asynccontextmanager
async def reading(site: ApiClient) -> AsyncIterator[Streams]:
    streams: Streams = site.app.state.streams
    site.context.hub.attach(asyncio.get_running_loop())
    task = asyncio.create_task(streams.run())
    try:
        yield streams
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def priority(site: ApiClient, job: str, value: int) -> Any:
    def work(tx: Tx) -> None:
        state = job_states.lock(tx, job)
        state.emit(tx, "test", "job.priority", {"priority": value})
        job_states.save(tx, state)

    return site.context.db.write(work)


def test_a_jobs_stream_begins_at_its_first_event_goes_on_live_and_resumes_without_a_gap(
    site: ApiClient,
) -> None:
    job = site.submit()["id"]

    async def story() -> None:
        async with reading(site):
            async with following(site, f"/api/jobs/{job}/events") as one:
                await one.until(lambda f: len(f.events) >= 2)
                assert one.status == 200
                assert one.headers["content-type"].startswith("text/event-stream")
                assert [e["type"] for e in one.events[:2]] == ["job.created", "job.scene_read"]
                await priority(site, job, 7)
                await one.until(lambda f: f.events[-1]["data"] == {"priority": 7})
                last = one.events[-1]["id"]
            await priority(site, job, 8)
            async with following(site, f"/api/jobs/{job}/events", seen=last) as two:
                await two.until(lambda f: len(f.events) == 1)
                await priority(site, job, 9)
                await two.until(lambda f: len(f.events) == 2)
                assert [e["data"]["priority"] for e in two.events] == [8, 9]
                ids = [int(e["id"]) for e in one.events + two.events]
                assert ids == list(range(1, len(ids) + 1))
            async with following(site, f"/api/jobs/{job}/events?follow=false", seen="0") as whole:
                await whole.until(lambda f: f.ended)
                assert whole.events == one.events + two.events

    site.loop.run(story())


def test_the_accounts_stream_begins_at_the_next_event_and_shows_no_other_accounts(
    site: ApiClient, other: ApiClient
) -> None:
    mine, theirs = site.submit()["id"], other.submit()["id"]

    async def story() -> None:
        async with reading(site), following(site, "/api/events") as one:
            await one.until(lambda f: "retry" in f.text)
            await one.until(lambda f: site.app.state.streams.all())
            await priority(other, theirs, 5)
            await priority(site, mine, 6)
            await one.until(lambda f: f.events)
            assert [(e["job"], e["data"]) for e in one.events] == [(mine, {"priority": 6})]
            async with following(site, "/api/events", seen=one.events[0]["id"]) as two:
                await priority(site, mine, 7)
                await two.until(lambda f: f.events)
                assert [e["data"]["priority"] for e in two.events] == [7]
        async with following(other, f"/api/jobs/{mine}/events") as refused:
            await refused.until(lambda f: f.ended)
            assert refused.status == 404

    site.loop.run(story())


def test_events_of_another_process_are_read_without_a_wake(site: ApiClient) -> None:
    job = site.submit()["id"]
    other_process = Database(site.context.db.url.render_as_string(hide_password=False))

    def work(tx: Tx) -> None:
        state = job_states.lock(tx, job)
        state.emit(tx, "test", "job.priority", {"priority": 4})
        job_states.save(tx, state)

    async def story() -> None:
        async with reading(site), following(site, "/api/events") as one:
            await one.until(lambda f: site.app.state.streams.all())
            await other_process.write(work)
            await one.until(lambda f: f.events)
            assert one.events[0]["data"] == {"priority": 4}

    try:
        site.loop.run(story())
    finally:
        other_process.close()


@pytest.mark.parametrize("seen", ["x", "-1", "1.5", "9" * 19])
def test_malformed_last_event_id_is_refused(site: ApiClient, seen: str) -> None:
    answer = site.ask("GET", "/api/events?follow=false", headers={"Last-Event-ID": seen})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_trimmed_events_cause_a_reset_and_the_newest_event_is_kept(site: ApiClient) -> None:
    job = site.submit()["id"]
    for value in (1, 2):
        site.ask("PATCH", f"/api/jobs/{job}", json={"priority": value})

    def age(tx: Tx) -> None:
        tx.conn.execute(sa.update(events).values(at_ms=tx.now_ms - 8 * DAY_MS))

    site.context.db.write_now(age)
    count = len(site.rows(events))
    assert site.context.db.write_now(service.trim, 1) == 1
    assert site.context.db.write_now(service.trim, 100) == count - 2
    (left,) = site.rows(events)
    for path, seen in ((f"/api/jobs/{job}/events", "1"), ("/api/events", "1")):
        text = site.ask("GET", f"{path}?follow=false", headers={"Last-Event-ID": seen}).text
        _, reset, event, _ = text.split("\n\n")
        assert reset == 'event: reset\ndata: {"reason":"not_kept"}'
        assert f'"number":{left["number"]},' in event
    before = str(left["number"] - 1)
    kept = site.ask("GET", f"/api/jobs/{job}/events?follow=false", headers={"Last-Event-ID": before}).text
    assert "reset" not in kept
    future = site.ask("GET", f"/api/jobs/{job}/events?follow=false", headers={"Last-Event-ID": "999"}).text
    assert '{"reason":"unknown"}' in future


@pytest.mark.parametrize("how", ["logout", "role", "drain"])
def test_stream_ends_when_its_caller_loses_access(
    site: ApiClient, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framefarm.server.events.streams.CHECK_SECONDS", 0.05)
    site.submit()

    async def story() -> None:
        async with reading(site), following(site, "/api/events") as one:
            await one.until(lambda f: site.app.state.streams.all())
            assert not one.ended
            if how == "drain":
                site.context.draining = True
                site.context.hub.wake_all()
            elif how == "logout":
                actor = await site.context.db.read(accounts.actor_of_token, site.context.keys, site.token, "")
                await site.context.db.write(accounts.revoke, actor.account_id, actor.token_id)
            else:
                user = await site.context.db.read(accounts.user_by_email, site.email)
                add = accounts.create_user
                await site.context.db.write(
                    add, site.account_id, "b@studio.example", "x", "admin", "operator"
                )
                change = accounts.change_user
                await site.context.db.write(change, site.account_id, user.id, "operator", role="member")
            await one.until(lambda f: f.ended)
            await asyncio.sleep(0)
        assert site.app.state.streams.all() == []

    site.loop.run(story())


def test_a_cookie_opens_a_stream_and_no_token_opens_none(site: ApiClient) -> None:
    job = site.submit()["id"]
    cookie = {"cookie": f"framefarm_session={site.token}", "authorization": ""}

    async def story() -> None:
        async with following(site, f"/api/jobs/{job}/events?follow=false", **cookie) as one:
            await one.until(lambda f: f.ended)
            assert one.status == 200
            assert one.events
        async with following(site, f"/api/jobs/{job}/events", authorization="") as two:
            await two.until(lambda f: f.ended)
            assert two.status == 401

    site.loop.run(story())


def test_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefarm.server.events.streams.QUEUED_EVENTS", 10)

    async def story() -> None:
        stream = Stream("job", "job_x", None)  # type: ignore[arg-type]
        stream.live = True
        for number in range(1, 13):
            stream.offer(number, b"x")
        assert stream.closed_at is not None
        assert stream.take() == b"x" * 10

    asyncio.run(story())


# -------------------------------------------------------------------------------- progress


def test_progress_is_the_latest_value_of_frames_in_work_and_no_event(site: ApiClient) -> None:
    job = site.submit(chunk_size=9)["id"]
    runner = site.runner(job)
    task = runner.sync().tasks[0]
    runner.report(runner.started(task))
    count = len(site.rows(events))

    def progress_of(frame: int, fraction: float, attempt: str = task.attempt) -> progress.Progress:
        return progress.Progress(runner.session, job, attempt, frame, fraction)

    async def story() -> None:
        async with reading(site), following(site, f"/api/jobs/{job}/events") as one:
            await one.until(lambda f: site.app.state.streams.all())
            await site.context.db.write(progress.record, [progress_of(1, 0.25)])
            await site.context.db.write(progress.record, [progress_of(1, 0.5)])
            await one.until(lambda f: any(m.get("event") == "progress" for m in f.messages))
            (sent_progress,) = [m for m in one.messages if m.get("event") == "progress"]
            assert "id" not in sent_progress
            assert json.loads(sent_progress["data"])["frame"] == 1

    site.loop.run(story())
    (shown,) = site.get(f"/api/jobs/{job}")["frames_in_work"]
    assert (shown["frame"], shown["fraction"], shown["session"]) == (1, 0.5, runner.session)
    assert len(site.rows(events)) == count
    runner.report(runner.saved(task, 1))
    assert site.get(f"/api/jobs/{job}")["frames_in_work"] == []
    for wrong in (progress_of(2, 9e9), progress_of(2, 0.5, "att_of_another")):
        site.context.db.write_now(progress.record, [wrong])
    assert site.get(f"/api/jobs/{job}")["frames_in_work"] == []


def test_a_runners_sync_carries_progress_to_the_jobs_detail(site: ApiClient) -> None:
    job = site.submit(chunk_size=9)["id"]
    runner = site.runner(job)
    task = runner.sync().tasks[0]
    runner.report(runner.started(task))
    latest = msg.Progress(attempt=task.attempt, frame=3, fraction=0.125)
    body = {
        "seen": 0, "wait_seconds": 0,
        "progress": {"attempt": latest.attempt, "frame": latest.frame, "fraction": latest.fraction},
    }  # fmt: skip

    async def story() -> None:
        async with site.app.router.lifespan_context(site.app):
            transport = httpx2.ASGITransport(app=site.app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://farm") as client:
                headers = {"Authorization": f"Bearer {runner.token}"}
                path = f"/node/v1/sessions/{runner.session}/sync"
                assert (await client.post(path, json=body, headers=headers)).status_code == 200
                headers = {"Authorization": f"Bearer {site.token}"}
                async with asyncio.timeout(30):
                    shown: list[Any] = []
                    while not shown:
                        answer = await client.get(f"/api/jobs/{job}", headers=headers)
                        shown = answer.json()["frames_in_work"]
                assert (shown[0]["frame"], shown[0]["fraction"]) == (3, 0.125)

    site.loop.run(story())


def test_number_of_event_and_log_streams_of_a_user_is_limited(site: ApiClient) -> None:
    job = site.submit()["id"]
    member = site.member()
    site.context.settings.streams_per_user = 3
    paths = ["/api/events", f"/api/jobs/{job}/events", f"/api/jobs/{job}/tasks/0/log?follow=true"]

    async def story() -> None:
        async with AsyncExitStack() as open_ones:
            for path in paths:
                one = await open_ones.enter_async_context(following(site, path))
                await one.until(lambda f: f.status == 200)
            for path in paths:
                refused = await site.call("GET", path)
                assert refused.status_code == 429, path
                assert "end one first" in refused.json()["detail"]
                assert refused.headers["retry-after"]
            async with following(member, paths[1]) as another:
                await another.until(lambda f: f.status == 200)
            assert (await site.call("GET", f"/api/jobs/{job}/tasks/0/log")).status_code == 200
        assert (await site.call("GET", f"{paths[0]}?follow=false")).status_code == 200
        assert (await site.call("GET", "/api/jobs/nope/events")).status_code == 404
        assert not site.app.state.streams.followed

    site.loop.run(story())
