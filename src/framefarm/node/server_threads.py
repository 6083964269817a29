"""The runner's two lanes to the farm, each a thread beside its main loop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framefarm.node.server_client import ReportOutOfOrder, ServerClient, ServerUnreachable, SessionOver
from framefarm.protocol import node as msg

EVENTS_PER_REPORT = 64
FILES_PER_REPORT = 2000
"""Of its frames; the event that reaches it is the report's last. One frame's bound is as much again, and the
farm takes both."""
REPORT_PACE_SECONDS = 0.02
"""Reports follow one another no faster: what happens meanwhile goes in one. The first is sent at once."""


@dataclass(frozen=True)
class Wanted:
    """A desired state from either lane."""

    desired: msg.DesiredState


@dataclass(frozen=True)
class Over:
    """There is no farm to work for any more."""

    reason: str


@dataclass(frozen=True)
class Acknowledged:
    """The farm has answered for frames of so many bytes."""

    bytes: int


Put = Callable[[object], None]


def thumbnail(folder: Path, attempt: str, frame: int) -> Path:
    """Where it lies."""
    return folder / f"{attempt}-{frame}.webp"


class StatePoller(threading.Thread):
    """Holds one `sync` open; each answer goes to the main loop."""

    def __init__(self, link: ServerClient, put: Put, wait_seconds: float) -> None:
        super().__init__(name="sync", daemon=True)
        self._link, self._put, self._wait = link, put, wait_seconds
        self.seen = 0
        self.progress: msg.Progress | None = None

    def run(self) -> None:
        try:
            while not self._link.closing:
                said = msg.Sync(seen=self.seen, wait_seconds=self._wait, progress=self.progress)
                wanted = self._link.sync(said)
                self.seen = max(self.seen, wanted.version)
                self._put(Wanted(wanted))
        except (SessionOver, ServerUnreachable) as error:
            self._put(Over(str(error)))


class ReportSender(threading.Thread):
    """Sends events in order, those that gather meanwhile in the next report.

    The journal is the report in flight and the queue behind it, in memory: nobody could send it after this
    process, which alone knows the token and holds the session's lock.
    """

    def __init__(self, link: ServerClient, put: Put, staging: Path, thumbnails: Path) -> None:
        super().__init__(name="reports", daemon=True)
        self._link, self._put, self._staging, self._thumbnails = link, put, staging, thumbnails
        self._queue: queue.SimpleQueue[msg.Event | None] = queue.SimpleQueue()

    def send(self, *events: msg.Event) -> None:
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
                    self._deliver(msg.Report(seq=seq, events=events))
                if last:
                    return
        except (SessionOver, ServerUnreachable, ReportOutOfOrder) as error:
            self._put(Over(str(error)))

    def _gather(self, until: float) -> tuple[list[msg.Event], bool]:
        """What is there by `until` (monotonic seconds), at least one; and whether that was the last."""
        events: list[msg.Event] = []
        files = 0
        event = self._queue.get()
        while event is not None:
            events.append(event)
            files += len(event.files) if isinstance(event, msg.FrameSaved) else 0
            if len(events) == EVENTS_PER_REPORT or files >= FILES_PER_REPORT:
                return events, False
            try:
                event = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return events, False
        return events, True

    def _deliver(self, report: msg.Report) -> None:
        receipt = self._link.report(report)
        for event, verdict in zip(report.events, receipt.verdicts, strict=False):
            if verdict == "applied":
                continue
            if isinstance(event, msg.FrameSaved):
                for file in event.files:
                    (self._staging / event.attempt / file.staged).unlink(missing_ok=True)
            if isinstance(event, msg.FrameDrawn):
                thumbnail(self._thumbnails, event.attempt, event.frame).unlink(missing_ok=True)
        saved = [e for e in report.events if isinstance(e, msg.FrameSaved)]
        if saved:
            self._put(Acknowledged(sum(file.size for e in saved for file in e.files)))
        self._put(Wanted(receipt.desired))
