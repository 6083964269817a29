"""The one reader of `events` in this process, and the streams that it feeds.

The reader follows the commit horizon, encodes each new event once for each kind of stream that needs it, and
appends the bytes to the streams' queues. A stream first reads missed events from the database, then sends
from its queue. A stream whose queue is full is closed: its client reconnects with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping

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
from framefarm.server.events.service import StreamKind
from framefarm.server.metrics import EVENT_LAG_SECONDS, STREAMS
from framefarm.server.rows import EventRow
from framefarm.server.sessions import progress

log = structlog.get_logger(__name__)
EVENTS_AT_ONCE = 500
QUEUED_EVENTS = 5000
KEEP_ALIVE_SECONDS = 15.0
CHECK_SECONDS = 2.0
"""Time between checks of the tokens of open streams: a stream ends within 5 s of a logout."""
PROGRESS_SECONDS = 1.0
PACE_SECONDS = 0.02
"""Shortest time between passes; the first pass after a wait runs at once."""
POLL_SECONDS = 0.1
"""Time between reads on PostgreSQL, where another process may write without waking this one."""
IDLE_SECONDS = 1.0
"""Time between reads otherwise: there is no stream, or every writer wakes the reader."""
HELLO = b"retry: 1000\n: framefarm\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class Stream:
    """Stream of one client: events of a job (`key`: its id), or of all jobs of an account."""

    def __init__(self, kind: StreamKind, key: str, actor: Actor) -> None:
        self.kind, self.key, self.actor = kind, key, actor
        self.last = 0
        """Number (job) or id (account) of the last event that was sent."""
        self.reset: str | None = None
        """Reason why the stream could not begin where its client left off."""
        self.live = False
        self.closed_at: float | None = None
        self.scope = anyio.CancelScope()
        self._queue: deque[tuple[int | None, bytes]] = deque()
        self._woken = asyncio.Event()

    def offer(self, stream_id: int | None, message: bytes) -> None:
        """Queue a message, unless the stream still catches up. `stream_id` None: a message without an id."""
        if self.live and self.closed_at is None:
            if len(self._queue) >= QUEUED_EVENTS:
                log.info("event_stream_too_slow", stream=self.key)
                self.close()
                return
            self._queue.append((stream_id, message))
            self._woken.set()

    def close(self) -> None:
        """End the stream once its queue is sent."""
        if self.closed_at is None:
            self.closed_at = time.monotonic()
            self._woken.set()

    def take(self) -> bytes:
        """All queued messages that were not sent yet, joined; the queue is then empty."""
        chunks = []
        while self._queue:
            stream_id, message = self._queue.popleft()
            if stream_id is None or stream_id > self.last:
                chunks.append(message)
                self.last = stream_id or self.last
        self._woken.clear()
        return b"".join(chunks)

    async def wait(self, seconds: float) -> bool:
        """Wait for a message or the end of the stream; False after `seconds` without either."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Followed(StreamingResponse):
    """Answer that continues until its client leaves. `ended` is called however it ends."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        ended: Callable[[], None],
        *,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class Streams:
    """The reader and its streams, one per process; `run` reads for ever."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.horizon = commit_horizon.Horizon()
        self._streams: dict[tuple[StreamKind, str], set[Stream]] = defaultdict(set)
        self.followed: Counter[str] = Counter()
        """User → open streams of events and logs."""
        self._reading = asyncio.Lock()
        self._checked_at = self._progress_at = 0.0
        self._progress_ms = 0

    @property
    def position(self) -> int | None:
        """The commit horizon: every event up to this id was read. None: not known yet."""
        return self.horizon.position

    # -- streams

    def claim_stream(self, actor: Actor) -> Callable[[], None]:
        """Count one more open stream of a user. Returns the function that ends the count. Raises TooMany."""
        user, most = actor.user_id, self.context.settings.streams_per_user
        if self.followed[user] >= most:
            raise TooMany(f"You follow {most} streams of events and logs: end one first.", 5)
        self.followed[user] += 1

        def give_back() -> None:
            self.followed[user] -= 1
            if not self.followed[user]:
                del self.followed[user]

        return give_back

    async def open(self, kind: StreamKind, key: str, actor: Actor, seen: int | None) -> Stream:
        """A stream that begins after the last event its client has `seen`. Raises NotFound, Unavailable."""
        if self.context.draining:
            raise Unavailable("The farm is stopping; try again in a moment.", 5)
        stream = Stream(kind, key, actor)
        if kind == "job":
            start = await self.context.db.read(service.begin_job, actor, key, seen)
        else:
            newest = await self.up_to_date()
            start = await self.context.db.read(service.begin_account, seen, newest)
        stream.last, stream.reset = start
        return stream

    async def up_to_date(self) -> int:
        """Read all events that are there now; returns the position."""
        while True:
            await self.run_pass()
            if self.position is not None:
                return self.position
            await asyncio.sleep(PACE_SECONDS)

    async def body(self, stream: Stream, *, follow: bool) -> AsyncIterator[bytes]:
        """Chunks of the answer: missed events first, then queued ones as they come if `follow`."""
        yield HELLO
        if stream.reset is not None:
            yield format_sse_event(event="reset", data_str=f'{{"reason":"{stream.reset}"}}')
        while page := await self._missed(stream):
            yield page
        if not follow:
            return
        self._add(stream)
        stream.live = True  # the reader queues from here on; events before it are read once more
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
            rows = await self.context.db.read(service.job_page, stream.key, stream.last, EVENTS_AT_ONCE)
        else:
            up_to = self.position or 0
            rows = await self.context.db.read(
                service.account_page, stream.key, stream.last, up_to, EVENTS_AT_ONCE
            )
        if rows:
            stream.last = service.stream_id(rows[-1], stream.kind)
        return b"".join(service.encode(row, stream.kind) for row in rows)

    def _add(self, stream: Stream) -> None:
        self._streams[stream.kind, stream.key].add(stream)
        STREAMS.inc()
        self.context.hub.wake("events")

    def remove(self, stream: Stream) -> None:
        """Stop feeding a stream; may be called more than once."""
        group = self._streams.get((stream.kind, stream.key), set())
        if stream in group:
            group.discard(stream)
            STREAMS.dec()
            if not group:
                del self._streams[stream.kind, stream.key]

    def all(self) -> list[Stream]:
        """The streams that are fed now."""
        return [stream for group in self._streams.values() for stream in group]

    # -- the reader

    async def run(self) -> None:
        async with self.context.hub.listen("events") as woken:
            while True:
                more = False
                try:
                    more = await self.run_pass()
                    await self._send_progress()
                    await self._end_invalid_streams()
                except Exception:
                    log.exception("event_reader_failed")
                if not more:
                    await woken.wait(self._pause_seconds())
                await asyncio.sleep(PACE_SECONDS)

    def _pause_seconds(self) -> float:
        if self.horizon.transaction is not None:
            return PACE_SECONDS
        return POLL_SECONDS if self._streams and not self.context.db.is_sqlite else IDLE_SECONDS

    async def run_pass(self) -> bool:
        """Read and deliver a page of events; returns whether there may be more."""
        async with self._reading:
            first = self.horizon.position is None
            read = await self.context.db.read(commit_horizon.read_events, self.horizon)
            self.horizon, ready = commit_horizon.advance(self.horizon, read)
            self._deliver(ready)
        if ready or (first and self.horizon.position is not None):
            self.context.hub.wake("webhooks", "mail")
        return len(read.rows) == commit_horizon.READ_AT_ONCE

    def _deliver(self, rows: list[EventRow]) -> None:
        if not self._streams:
            return
        for row in rows:
            followers: tuple[tuple[StreamKind, str], ...] = (("job", row.job_id), ("account", row.account_id))
            for kind, key in followers:
                streams = self._streams.get((kind, key))
                if not streams:
                    continue
                message = service.encode(row, kind)
                for stream in streams:
                    stream.offer(service.stream_id(row, kind), message)
                    if kind == "job" and row.type == "job.deleted":
                        stream.close()
        if rows:
            EVENT_LAG_SECONDS.observe(max(0, self.context.db.clock_ms() - rows[0].at_ms) / 1000)

    async def _send_progress(self) -> None:
        """Send the latest progress of the followed jobs, at most once a second, as messages without an id."""
        watched = [key for kind, key in self._streams if kind == "job"]
        now = time.monotonic()
        if not watched or now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        for latest in await self.context.db.read(progress.of_jobs, watched, self._progress_ms):
            self._progress_ms = max(self._progress_ms, latest.pop("at_ms"))
            job = latest.pop("job")
            message = format_sse_event(event="progress", data_str=service.dumps(latest))
            for stream in self._streams.get(("job", job), ()):
                stream.offer(None, message)

    async def _end_invalid_streams(self) -> None:
        """End streams whose token is no longer valid or has another role; end all of them in a drain."""
        now = time.monotonic()
        if self.context.draining:
            for stream in self.all():
                stream.close()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        streams = self.all()
        if not streams:
            return
        valid = await self.context.db.read(accounts.valid_tokens, {s.actor.token_id for s in streams})
        for stream in streams:
            if valid.get(stream.actor.token_id) != stream.actor.role:
                stream.close()
            if stream.closed_at is not None and now - stream.closed_at > CHECK_SECONDS / 2:
                stream.scope.cancel()  # its client does not read
