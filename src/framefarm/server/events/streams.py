"""The one reader of `events` in this process, and the streams that it feeds.

The reader follows the horizon, encodes each new event once for each kind of stream that wants it, and hands
the bytes to the streams' queues. A stream first reads from the database what it missed, then takes from its
queue. One that is not emptied in time is ended: its client comes back with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import structlog
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from framefarm.core.errors import TooMany, Unavailable
from framefarm.server.accounts import service as accounts
from framefarm.server.actor import Actor
from framefarm.server.context import AppContext
from framefarm.server.events import commit_horizon, service
from framefarm.server.events.service import Kind
from framefarm.server.metrics import EVENT_LAG_SECONDS, STREAMS
from framefarm.server.sessions import progress

log = structlog.get_logger(__name__)
PAGE = 500
QUEUED_EVENTS = 5000
KEEP_ALIVE_SECONDS = 15.0
CHECK_SECONDS = 2.0
"""How often the tokens behind open streams are looked at; they end within 5 s of a logout."""
PROGRESS_SECONDS = 1.0
PACE_SECONDS = 0.02
"""Rounds follow one another no faster; the first comes at once."""
POLL_SECONDS = 0.1
"""On PostgreSQL another process may have written: nobody wakes this one."""
IDLE_SECONDS = 1.0
HELLO = b"retry: 1000\n: framefarm\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class Stream:
    """What one client follows: a job, or all of an account's jobs."""

    def __init__(self, kind: Kind, key: str, actor: Actor) -> None:
        self.kind, self.key, self.actor = kind, key, actor
        self.last = 0
        """Number (job) or id (account) of the last event that was sent."""
        self.reset: str | None = None
        self.live = False
        self.closed_at: float | None = None
        self.scope = anyio.CancelScope()
        self._queue: deque[tuple[int | None, bytes]] = deque()
        self._woken = asyncio.Event()

    def offer(self, place: int | None, message: bytes) -> None:
        """Queue an event, or with `place` None what carries no id. Nothing while it still catches up."""
        if self.live and self.closed_at is None:
            if len(self._queue) >= QUEUED_EVENTS:
                log.info("event_stream_too_slow", stream=self.key)
                self.close()
                return
            self._queue.append((place, message))
            self._woken.set()

    def close(self) -> None:
        """End it once its queue is sent."""
        if self.closed_at is None:
            self.closed_at = time.monotonic()
            self._woken.set()

    def take(self) -> bytes:
        """All that is queued and was not sent yet."""
        chunks = []
        while self._queue:
            place, message = self._queue.popleft()
            if place is None or place > self.last:
                chunks.append(message)
                self.last = place or self.last
        self._woken.clear()
        return b"".join(chunks)

    async def wait(self, seconds: float) -> bool:
        """Whether there is something to take, or it is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Followed(StreamingResponse):
    """An answer that goes on until its client leaves. `ended` is called whichever way it ends."""

    def __init__(self, content: AsyncIterator[bytes], ended: Callable[[], None], **more: Any) -> None:
        super().__init__(content, **more)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class Streams:
    """The reader and its streams. `run` is its life; one per process."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.horizon = commit_horizon.Horizon()
        self._streams: dict[tuple[Kind, str], set[Stream]] = defaultdict(set)
        self.followed: Counter[str] = Counter()
        """User → streams that go on until the client leaves, of logs too."""
        self._reading = asyncio.Lock()
        self._checked = self._progress_at = 0.0
        self._progress_ms = 0

    @property
    def position(self) -> int | None:
        """Every event up to this id was read, or never will be there."""
        return self.horizon.position

    # -- streams

    def take_place(self, actor: Actor) -> Callable[[], None]:
        """Count one more stream of a user; returns what gives the place back. Raises TooMany."""
        user, most = actor.user_id, self.context.settings.streams_per_user
        if self.followed[user] >= most:
            raise TooMany(f"You follow {most} streams of events and logs: end one first.", 5)
        self.followed[user] += 1

        def give_back() -> None:
            self.followed[user] -= 1
            if not self.followed[user]:
                del self.followed[user]

        return give_back

    async def open(self, kind: Kind, key: str, actor: Actor, seen: int | None) -> Stream:
        """A stream that begins where its client left off. Raises NotFound, Unavailable."""
        if self.context.draining:
            raise Unavailable("The farm is stopping; try again in a moment.", 5)
        stream = Stream(kind, key, actor)
        if kind == "job":
            begun = await self.context.db.read(service.begin_job, actor, key, seen)
        else:
            newest = await self.up_to_date()
            begun = await self.context.db.read(service.begin_account, seen, newest)
        stream.last, stream.reset = begun
        return stream

    async def up_to_date(self) -> int:
        """Read on once; returns the position."""
        while True:
            await self.round()
            if self.position is not None:
                return self.position
            await asyncio.sleep(PACE_SECONDS)

    async def body(self, stream: Stream, *, follow: bool) -> AsyncIterator[bytes]:
        """What the client gets. Headers are sent before it is asked for the first time."""
        yield HELLO
        if stream.reset is not None:
            yield format_sse_event(event="reset", data_str=f'{{"reason":"{stream.reset}"}}')
        while page := await self._missed(stream):
            yield page
        if not follow:
            return
        self._add(stream)
        stream.live = True  # from here on the reader queues; what came before is read once more
        while page := await self._missed(stream):
            yield page
        while True:
            if chunk := stream.take():
                yield chunk
            if stream.closed_at is not None:
                return
            if not await stream.wait(KEEP_ALIVE_SECONDS):
                yield KEEP_ALIVE

    async def _missed(self, stream: Stream) -> bytes:
        if stream.kind == "job":
            rows = await self.context.db.read(service.job_page, stream.key, stream.last, PAGE)
        else:
            up_to = self.position or 0
            rows = await self.context.db.read(service.account_page, stream.key, stream.last, up_to, PAGE)
        if rows:
            stream.last = rows[-1]["number" if stream.kind == "job" else "id"]
        return b"".join(service.encode(row, stream.kind) for row in rows)

    def _add(self, stream: Stream) -> None:
        self._streams[stream.kind, stream.key].add(stream)
        STREAMS.inc()
        self.context.hub.wake("events")

    def remove(self, stream: Stream) -> None:
        mine = self._streams.get((stream.kind, stream.key), set())
        if stream in mine:
            mine.discard(stream)
            STREAMS.dec()
            if not mine:
                del self._streams[stream.kind, stream.key]

    def all(self) -> list[Stream]:
        return [stream for group in self._streams.values() for stream in group]

    # -- the reader

    async def run(self) -> None:
        async with self.context.hub.listen("events") as woken:
            while True:
                more = False
                try:
                    more = await self.round()
                    await self._tell_progress()
                    await self._check()
                except Exception:
                    log.exception("event_reader_failed")
                if not more:
                    await woken.wait(self._patience_seconds())
                await asyncio.sleep(PACE_SECONDS)

    def _patience_seconds(self) -> float:
        if self.horizon.transaction is not None:
            return PACE_SECONDS
        return POLL_SECONDS if self._streams and not self.context.db.is_sqlite else IDLE_SECONDS

    async def round(self) -> bool:
        """Read on and deliver; whether there may be more to read."""
        async with self._reading:
            first = self.horizon.position is None
            read = await self.context.db.read(commit_horizon.look, self.horizon)
            self.horizon, ready = commit_horizon.advance(self.horizon, read)
            self._deliver(ready)
        if ready or (first and self.horizon.position is not None):
            self.context.hub.wake("webhooks", "mail")
        return len(read.rows) == commit_horizon.READ_AT_ONCE

    def _deliver(self, rows: list[Any]) -> None:
        if not self._streams:
            return
        for row in rows:
            wants: tuple[tuple[Kind, str], ...] = (("job", row["job_id"]), ("account", row["account_id"]))
            for kind, key in wants:
                streams = self._streams.get((kind, key))
                if not streams:
                    continue
                message = service.encode(row, kind)
                place = row["number"] if kind == "job" else row["id"]
                for stream in streams:
                    stream.offer(place, message)
                    if kind == "job" and row["type"] == "job.deleted":
                        stream.close()
        if rows:
            EVENT_LAG_SECONDS.observe(max(0, self.context.db.clock_ms() - rows[0]["at_ms"]) / 1000)

    async def _tell_progress(self) -> None:
        """The latest progress of the jobs that are followed, at most once a second, without an id."""
        watched = [key for kind, key in self._streams if kind == "job"]
        now = time.monotonic()
        if not watched or now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        for said in await self.context.db.read(progress.of_jobs, watched, self._progress_ms):
            self._progress_ms = max(self._progress_ms, said.pop("at_ms"))
            job = said.pop("job")
            message = format_sse_event(event="progress", data_str=service.dumps(said))
            for stream in self._streams.get(("job", job), ()):
                stream.offer(None, message)

    async def _check(self) -> None:
        """End the streams whose token is not valid any more, or has another role; all of them in a drain."""
        now = time.monotonic()
        if self.context.draining:
            for stream in self.all():
                stream.close()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        streams = self.all()
        if not streams:
            return
        valid = await self.context.db.read(accounts.valid_tokens, {s.actor.token_id for s in streams})
        for stream in streams:
            if valid.get(stream.actor.token_id) != stream.actor.role:
                stream.close()
            if stream.closed_at is not None and now - stream.closed_at > CHECK_SECONDS / 2:
                stream.scope.cancel()  # its client does not take what was sent
