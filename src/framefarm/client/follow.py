"""Following a job while it renders: the job is fetched again whenever its event stream reports an event.

Events report changes; a job's status and counts are always those of the fetched job. A stream that breaks off
is resumed after the last event received. Without a stream (a proxy blocks it, or the farm is older), the job
is polled.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from framefarm.client.errors import FarmError, LoginNeeded
from framefarm.client.http import Client, EventStream
from framefarm.client.jobs import FINISHED, Job, get, quoted

Event = dict[str, Any]
"""An event as in docs/events.md: `number`, `at`, `type`, `actor`, `data`."""

PACE_SECONDS = 0.5
"""Shortest time between two requests for the job, however many events come."""
QUIET_SECONDS = 5.0
"""Longest time between two requests for the job without an event: its cost grows all the same."""
LEAVING_SECONDS = 1.0
"""Longest time between two requests while a job is holding or cancelling: the
end of a task does not always cause an event."""
POLL_SECONDS = 1.0
"""Time between two requests for the job without an event stream."""
LATE_SECONDS = 2.0
"""How long to wait for the events that led to a job's end or hold, once the job itself shows it."""
RESUME_SECONDS = 1.0
"""Pause before a stream that ended is opened again; the farm asks browsers for the same."""
_RESTING = FINISHED | {"holding"}


@dataclass(frozen=True)
class JobUpdate:
    """A job's current state, and the events since the update before, in order."""

    job: Job
    events: list[Event]


def follow(
    client: Client, job_id: str, *, on_note: Callable[[str], object] = lambda text: None
) -> Iterator[JobUpdate]:
    """Updates of a job until it is finished, or until the caller leaves the loop.

    The first update holds the job's current state, the later ones every event since the job was made.
    `on_note` is called once, with a sentence, if there is no event stream and the job is polled instead.

    Raises LoginNeeded when the login expires meanwhile, Refused when the job is deleted, and Unreachable when
    the farm does not answer for longer than `client.patience_seconds`.
    """
    job = get(client, job_id)
    yield JobUpdate(job, [])
    fetched = time.monotonic()
    with _event_queue(client, job_id) as events_queue:
        inbox = _EventInbox(events_queue, on_note)
        while job["status"] not in FINISHED:
            leaving = job["status"] in {"holding", "cancelling"}
            events = inbox.collect(LEAVING_SECONDS if leaving else QUIET_SECONDS, fetched + PACE_SECONDS)
            job = get(client, job_id)
            fetched = time.monotonic()
            while (
                job["status"] in _RESTING
                and inbox.is_behind(job)
                and time.monotonic() < fetched + LATE_SECONDS
            ):
                events += inbox.collect(LATE_SECONDS)
            yield JobUpdate(job, events)


_Item = Event | FarmError | None
"""None: only the progress of a frame being rendered has changed."""


class _EventInbox:
    """Events from the stream's reader, and whether there is a stream at all."""

    def __init__(self, items: queue.SimpleQueue[_Item], on_note: Callable[[str], object]) -> None:
        self._items, self._on_note = items, on_note
        self._has_stream, self._status = True, ""

    def is_behind(self, job: Job) -> bool:
        """Whether the stream has not yet delivered the event for the job's current status."""
        return self._has_stream and self._status != job["status"]

    def collect(self, quiet_seconds: float, not_before: float = 0.0) -> list[Event]:
        """Wait for the first event, at most `quiet_seconds`, then for more until `not_before` (monotonic)."""
        events: list[Event] = []
        wait = quiet_seconds if self._has_stream else POLL_SECONDS
        with suppress(queue.Empty):
            while True:
                item = self._items.get(timeout=wait)
                if isinstance(item, LoginNeeded):
                    raise item
                if isinstance(item, FarmError):
                    # If the farm does not answer at all, the next request for the job raises that.
                    self._has_stream = False
                    self._on_note(f"There is no event stream ({item}): the job is polled instead.")
                elif item is not None:
                    events.append(item)
                    if item["type"] == "job.status":
                        self._status = item["data"]["status"]
                wait = max(0.0, not_before - time.monotonic())
        return events


@contextmanager
def _event_queue(client: Client, job_id: str) -> Iterator[queue.SimpleQueue[_Item]]:
    """A queue that a thread fills from the job's event stream while the block runs."""
    reader = _StreamReader(client, f"/api/jobs/{quoted(job_id)}/events")
    reader.start()
    try:
        yield reader.items
    finally:
        reader.stop()


class _StreamReader(threading.Thread):
    def __init__(self, client: Client, path: str) -> None:
        super().__init__(name="events", daemon=True)
        self.items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._client, self._path = client, path
        self._stopping = threading.Event()
        self._stream: EventStream | None = None
        self._last_id = ""

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._client.events(self._path, self._last_id) as self._stream:
                    if not self._stopping.is_set():
                        self._read(self._stream)
            except FarmError as error:
                self.items.put(error)
                return
            except RuntimeError:
                return  # the client was closed, so the caller has stopped following
            self._stopping.wait(RESUME_SECONDS)

    def _read(self, stream: EventStream) -> None:
        for message in stream:
            if message.event == "message" and message.data:
                self._last_id = message.id
                self.items.put(dict(message.json()))  # type: ignore[call-overload]
            elif message.event == "progress":
                self.items.put(None)

    def stop(self) -> None:
        self._stopping.set()
        if self._stream is not None:
            self._stream.hang_up()
        self.join(RESUME_SECONDS)
