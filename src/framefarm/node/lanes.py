"""The runner's threads beside its main loop: the two lanes to the farm, and the collector of outputs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framefarm.node.link import Abandoned, Link, OutOfStep, SessionOver
from framefarm.node.outputs import OutputRejected, collect, not_stored, sync_directory
from framefarm.protocol import node as say

EVENTS_PER_REPORT = 64
REPORT_PACE_SECONDS = 0.02
"""Reports follow one another no faster: what happens meanwhile goes in one. The first is sent at once."""
FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Wanted:
    """A desired state from either lane."""

    desired: say.Desired


@dataclass(frozen=True)
class Staged:
    """Frames that are durable in staging."""

    count: int


@dataclass(frozen=True)
class Refused:
    """A frame's output could not be taken."""

    attempt: str
    frame: int
    cause: str
    message: str


@dataclass(frozen=True)
class Over:
    """There is no farm to work for any more."""

    reason: str


@dataclass(frozen=True)
class Frame:
    """A saved frame on its way to staging."""

    attempt: str
    frame: int
    directory: Path
    at_ms: int
    seconds: float
    peak_memory_bytes: int
    notes: tuple[say.Note, ...]


Put = Callable[[object], None]


class SyncLane(threading.Thread):
    """Holds one `sync` open; each answer goes to the main loop."""

    def __init__(self, link: Link, put: Put, wait_seconds: float) -> None:
        super().__init__(name="sync", daemon=True)
        self._link, self._put, self._wait = link, put, wait_seconds
        self.seen = 0
        self.progress: say.Progress | None = None

    def run(self) -> None:
        try:
            while not self._link.closing:
                said = say.Sync(seen=self.seen, wait_seconds=self._wait, progress=self.progress)
                wanted = self._link.sync(said)
                self.seen = max(self.seen, wanted.version)
                self._put(Wanted(wanted))
        except (SessionOver, Abandoned) as error:
            self._put(Over(str(error)))


class ReportLane(threading.Thread):
    """Sends events in order, those that gather meanwhile in the next report.

    The journal is the report in flight and the queue behind it, in memory: nobody could send it after this
    process, which alone knows the token and holds the session's lock.
    """

    def __init__(self, link: Link, put: Put, staging: Path) -> None:
        super().__init__(name="reports", daemon=True)
        self._link, self._put, self._staging = link, put, staging
        self._queue: queue.SimpleQueue[say.Event | None] = queue.SimpleQueue()

    def send(self, *events: say.Event) -> None:
        for event in events:
            self._queue.put(event)

    def finish(self, timeout_seconds: float) -> None:
        """Send what is left; returns when it is acknowledged, or after the time-out."""
        self._queue.put(None)
        self.join(timeout_seconds)

    def run(self) -> None:
        seq, sent = 0, 0.0
        try:
            while True:
                events, last = self._gather(sent + REPORT_PACE_SECONDS)
                if events:
                    seq, sent = seq + 1, time.monotonic()
                    self._deliver(say.Report(seq=seq, events=events))
                if last:
                    return
        except (SessionOver, Abandoned, OutOfStep) as error:
            self._put(Over(str(error)))

    def _gather(self, until: float) -> tuple[list[say.Event], bool]:
        """What is there by `until` (monotonic seconds), at least one; and whether that was the last."""
        events: list[say.Event] = []
        event = self._queue.get()
        while event is not None:
            events.append(event)
            if len(events) == EVENTS_PER_REPORT:
                return events, False
            try:
                event = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return events, False
        return events, True

    def _deliver(self, report: say.Report) -> None:
        receipt = self._link.report(report)
        for event, verdict in zip(report.events, receipt.verdicts, strict=False):
            if verdict != "applied" and isinstance(event, say.FrameSaved):
                for file in event.files:
                    (self._staging / event.attempt / file.staged).unlink(missing_ok=True)
        self._put(Wanted(receipt.desired))


class Collector(threading.Thread):
    """Takes saved frames into staging and passes on events, in order."""

    def __init__(self, put: Put, send: Callable[[say.Event], None], staging: Path, stem: str) -> None:
        super().__init__(name="collector", daemon=True)
        self._put, self._send, self._staging, self._stem = put, send, staging, stem
        self._queue: queue.SimpleQueue[Frame | say.Event | None] = queue.SimpleQueue()
        self._broken: set[str] = set()

    def add(self, item: Frame | say.Event) -> None:
        self._queue.put(item)

    def finish(self) -> None:
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        while True:
            items: list[Frame | say.Event] = []
            item = self._queue.get()
            while item is not None:
                items.append(item)
                if len(items) == FRAMES_AT_ONCE * 4:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._take(items)
            if item is None:
                return

    def _take(self, items: list[Frame | say.Event]) -> None:
        """Stage the frames, sync each folder once, then tell of all of them in order."""
        told: list[say.Event] = []
        folders: set[Path] = set()
        count = 0
        for item in items:
            if not isinstance(item, Frame):
                if not (isinstance(item, say.TaskEnded) and item.attempt in self._broken):
                    told.append(item)
                continue
            count += 1
            if item.attempt in self._broken:
                continue
            folder = self._staging / item.attempt
            try:
                files = collect(item.directory, folder, self._stem, item.frame)
            except OutputRejected as error:
                self._broken.add(item.attempt)
                self._put(Refused(item.attempt, item.frame, error.cause, error.detail))
                continue
            folders.add(folder)
            told.append(
                say.FrameSaved(
                    attempt=item.attempt,
                    frame=item.frame,
                    at_ms=item.at_ms,
                    seconds=item.seconds,
                    files=files,
                    peak_memory_bytes=item.peak_memory_bytes,
                    warnings=list(item.notes),
                )
            )
        if folders:
            told = self._durable(folders, told)
        for event in told:
            self._send(event)
        if count:
            self._put(Staged(count))

    def _durable(self, folders: set[Path], told: list[say.Event]) -> list[say.Event]:
        """Sync the folders; what of `told` may be told then."""
        try:
            for folder in (*folders, self._staging):
                sync_directory(folder)
            return told
        except (OSError, OutputRejected) as error:
            why = error if isinstance(error, OutputRejected) else not_stored(error, "a frame's folder")
        saved = [e for e in told if isinstance(e, say.FrameSaved)]
        self._broken |= {e.attempt for e in saved}
        for event in saved:
            self._put(Refused(event.attempt, event.frame, why.cause, why.detail))
        untold = (say.FrameSaved, say.TaskEnded)
        return [e for e in told if not (isinstance(e, untold) and e.attempt in self._broken)]
