"""The runner's two threads that talk to the farm: one polls the desired state, one sends reports."""

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
"""Files of a report's frames. The event that reaches this number is the report's last. As one frame may have
as many files again, a report has fewer than twice this number, which the farm accepts."""
REPORT_PACE_SECONDS = 0.02
"""Least time between two reports; events of the meantime share the next one. The first is sent at once."""


@dataclass(frozen=True)
class NewDesiredState:
    """A desired state from the farm, in the answer of either thread's call."""

    desired: msg.DesiredState


@dataclass(frozen=True)
class SessionAborted:
    """The session cannot go on: the farm has ended it or is unreachable, or a thread of the runner failed."""

    reason: str


@dataclass(frozen=True)
class FramesAcknowledged:
    """Frames whose files have `bytes` bytes together have got their verdicts from the farm."""

    bytes: int


Put = Callable[[object], None]
"""Puts an event into the session's inbox. Safe to call from any thread."""


def thumbnail_path(folder: Path, attempt: str, frame: int) -> Path:
    """Path of a frame's thumbnail in the session's folder for thumbnails."""
    return folder / f"{attempt}-{frame}.webp"


class StatePoller(threading.Thread):
    """Keeps one `sync` call open and puts each answer into the inbox, as NewDesiredState.

    Ends with SessionAborted in the inbox when the farm ended the session or is unreachable.
    """

    def __init__(self, client: ServerClient, put: Put, wait_seconds: float) -> None:
        super().__init__(name="sync", daemon=True)
        self._client, self._put, self._wait_seconds = client, put, wait_seconds
        self.seen_version = 0
        self.progress: msg.Progress | None = None
        """The latest progress of the frame in work, sent with the next call."""

    def run(self) -> None:
        try:
            while not self._client.closing:
                request = msg.Sync(
                    seen=self.seen_version, wait_seconds=self._wait_seconds, progress=self.progress
                )
                desired = self._client.sync(request)
                self.seen_version = max(self.seen_version, desired.version)
                self._put(NewDesiredState(desired))
        except (SessionOver, ServerUnreachable) as error:
            self._put(SessionAborted(str(error)))


class ReportSender(threading.Thread):
    """Sends events to the farm in order; those that arrive during a call share the next report.

    Unsent events are kept in memory only. Writing them to disk would not help: only this process knows the
    session's token and holds its lock, so no other process could send them.
    """

    def __init__(self, client: ServerClient, put: Put, staging: Path, thumbnails: Path) -> None:
        super().__init__(name="reports", daemon=True)
        self._client, self._put, self._staging, self._thumbnails = client, put, staging, thumbnails
        self._queue: queue.SimpleQueue[msg.Event | None] = queue.SimpleQueue()

    def send(self, *events: msg.Event) -> None:
        """Queue events for the next report."""
        for event in events:
            self._queue.put(event)

    def finish(self, timeout_seconds: float) -> None:
        """Send the remaining events and wait for their verdicts, at most for the time-out."""
        self._queue.put(None)
        self.join(timeout_seconds)

    def run(self) -> None:
        seq, sent_at = 0, 0.0
        try:
            while True:
                events, is_last = self._gather(sent_at + REPORT_PACE_SECONDS)
                if events:
                    seq, sent_at = seq + 1, time.monotonic()
                    self._deliver(msg.Report(seq=seq, events=events))
                if is_last:
                    return
        except (SessionOver, ServerUnreachable, ReportOutOfOrder) as error:
            self._put(SessionAborted(str(error)))

    def _gather(self, until: float) -> tuple[list[msg.Event], bool]:
        """(events queued by `until`, monotonic seconds; whether they are the last). Waits for the first."""
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
        reply = self._client.report(report)
        for event, verdict in zip(report.events, reply.verdicts, strict=False):
            if verdict == "applied":
                continue
            if isinstance(event, msg.FrameSaved):
                for file in event.files:
                    (self._staging / event.attempt / file.staged).unlink(missing_ok=True)
            if isinstance(event, msg.FrameDrawn):
                thumbnail_path(self._thumbnails, event.attempt, event.frame).unlink(missing_ok=True)
        saved = [e for e in report.events if isinstance(e, msg.FrameSaved)]
        if saved:
            self._put(FramesAcknowledged(sum(file.size for e in saved for file in e.files)))
        self._put(NewDesiredState(reply.desired))
