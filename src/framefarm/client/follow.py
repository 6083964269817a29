"""A job followed as it happens: woken by its event stream, which is resumed where it broke off.

What happened is told by the stream, how the job stands by the job itself: events wake, the job is asked.
Where there is no stream (a proxy in between, an older farm), the job is asked again and again.
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
"""As docs/events.md has it: `number`, `at`, `type`, `actor`, `data`."""

PACE_SECONDS = 0.5
"""The job is asked at most so often."""
QUIET_SECONDS = 5.0
"""Without an event it is asked all the same: what machines cost runs on."""
LEAVING_SECONDS = 1.0
"""As above, while its last tasks end: not every end of a task is an event."""
POLL_SECONDS = 1.0
"""Without a stream."""
LATE_SECONDS = 2.0
"""Of a job that has come to rest, events that led there are waited for so long."""
RESUME_SECONDS = 1.0
"""A stream that ended is opened again after so long, as the farm asks of browsers."""


@dataclass(frozen=True)
class Seen:
    """A job as it stands, and what happened since the last look, in order."""

    job: Job
    events: list[Event]


def follow(
    client: Client, job_id: str, *, on_note: Callable[[str], object] = lambda text: None
) -> Iterator[Seen]:
    """A job as it goes on, until it is finished; the caller stops earlier by leaving the loop.

    Begins with the job as it is, then tells every event from its first one on. `on_note` hears, once, that
    there is no event stream and the job is asked again and again instead.

    Raises LoginNeeded when the login ends meanwhile, Refused when the job is gone, Unreachable when the farm
    does not answer for longer than `client.patience_seconds`.
    """
    job = get(client, job_id)
    yield Seen(job, [])
    asked = time.monotonic()
    with _events_of(client, job_id) as inbox:
        ears = _Ears(inbox, on_note)
        while job["status"] not in FINISHED:
            leaving = job["status"] in {"holding", "cancelling"}
            events = ears.hear(LEAVING_SECONDS if leaving else QUIET_SECONDS, asked + PACE_SECONDS)
            job = get(client, job_id)
            asked = time.monotonic()
            while job["status"] in RESTS and ears.behind(job) and time.monotonic() < asked + LATE_SECONDS:
                events += ears.hear(LATE_SECONDS)
            yield Seen(job, events)


RESTS = FINISHED | {"holding"}
_Item = Event | FarmError | None
"""None: something that only changes how far a frame in work is."""


class _Ears:
    """What the reader of the stream passes on, if there is a stream."""

    def __init__(self, inbox: queue.SimpleQueue[_Item], on_note: Callable[[str], object]) -> None:
        self._inbox, self._on_note = inbox, on_note
        self._streams, self._status = True, ""

    def behind(self, job: Job) -> bool:
        """Whether the events that led the job where it is are still to come."""
        return self._streams and self._status != job["status"]

    def hear(self, quiet_seconds: float, not_before: float = 0.0) -> list[Event]:
        """Waits for the first event, at most `quiet_seconds`, then for more until `not_before`."""
        found: list[Event] = []
        wait = quiet_seconds if self._streams else POLL_SECONDS
        with suppress(queue.Empty):
            while True:
                item = self._inbox.get(timeout=wait)
                if isinstance(item, FarmError) and not isinstance(item, LoginNeeded):
                    # Whether the farm answers at all, asking for the job tells.
                    self._streams = False
                    self._on_note(
                        f"There is no event stream ({item}): the job is asked again and again instead."
                    )
                elif isinstance(item, FarmError):
                    raise item
                elif item is not None:
                    found.append(item)
                    if item["type"] == "job.status":
                        self._status = item["data"]["status"]
                wait = max(0.0, not_before - time.monotonic())
        return found


@contextmanager
def _events_of(client: Client, job_id: str) -> Iterator[queue.SimpleQueue[_Item]]:
    """Reads the job's stream in a thread of its own while the block runs."""
    reader = _Reader(client, f"/api/jobs/{quoted(job_id)}/events")
    reader.start()
    try:
        yield reader.inbox
    finally:
        reader.leave()


class _Reader(threading.Thread):
    def __init__(self, client: Client, path: str) -> None:
        super().__init__(name="events", daemon=True)
        self.inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._farm, self._path = client, path
        self._left = threading.Event()
        self._stream: EventStream | None = None
        self._last_id = ""

    def run(self) -> None:
        while not self._left.is_set():
            try:
                with self._farm.events(self._path, self._last_id) as self._stream:
                    if not self._left.is_set():
                        self._read(self._stream)
            except FarmError as error:
                self.inbox.put(error)
                return
            except RuntimeError:
                return  # the farm's client was closed: nobody follows any more
            self._left.wait(RESUME_SECONDS)

    def _read(self, stream: EventStream) -> None:
        for message in stream:
            if message.event == "message" and message.data:
                self._last_id = message.id
                self.inbox.put(dict(message.json()))  # type: ignore[call-overload]
            elif message.event == "progress":
                self.inbox.put(None)

    def leave(self) -> None:
        self._left.set()
        if self._stream is not None:
            self._stream.hang_up()
        self.join(RESUME_SECONDS)
