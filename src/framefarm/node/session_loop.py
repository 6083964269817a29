"""The life of a session, from the hello to its last report: one loop over one inbox.

Other threads only put events into the inbox: Blender's, the stager's, and the two that talk to the farm.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import time
from pathlib import Path

import msgspec

from framefarm.core.failure_codes import explain, is_node_fault
from framefarm.node import sandbox, shader_cache
from framefarm.node.blender import Blender, BlenderLimits, SceneOrder
from framefarm.node.blender_events import Exited, Failed, Opened, Progress, Saved
from framefarm.node.blender_launch import needed_folders
from framefarm.node.blender_log import BlenderLog
from framefarm.node.inputs import BadInputs, Layout, lay_out
from framefarm.node.output_stager import FrameRefused, FramesStaged, OutputStager, SavedFrame, StagingFolders
from framefarm.node.sandbox import SandboxUnavailable
from framefarm.node.server_client import ServerClient, SessionOver
from framefarm.node.server_threads import (
    FramesAcknowledged,
    NewDesiredState,
    ReportSender,
    SessionAborted,
    StatePoller,
)
from framefarm.node.task_queue import TaskQueue
from framefarm.protocol import node as msg

PATIENCE_BEFORE_HELLO_SECONDS = 60.0
LAST_REPORT_SECONDS = 20.0
"""How long the end of a session waits for its last report's answer."""
LOG_BYTES = 64 << 20
"""Most bytes of each attempt's log."""


class StopRequest:
    """The process got SIGTERM: end the session now."""


class DeadlineReached:
    """A time limit of the task in work may have passed."""


class SessionLoop:
    """One session: its tasks, its open Blender and its threads."""

    def __init__(self, slot: msg.Slot, boot_id: str) -> None:
        self.slot = slot
        self.boot_id = boot_id
        self.directory = Path(slot.directory)
        self.started_at = time.monotonic()
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.patience_seconds = PATIENCE_BEFORE_HELLO_SECONDS
        self.client = ServerClient(slot, lambda: self.patience_seconds)
        self.queue = TaskQueue()
        self.blender: Blender | None = None
        self.scene_open = False
        self.blenders_started = 0
        self.log = BlenderLog(LOG_BYTES)
        self.unwatched = ""
        """Why Blender's lookups are not seen on this node; empty if they are."""
        self.reason = "ended"

    def now_ms(self) -> int:
        """Milliseconds since the start of the runner."""
        return round((time.monotonic() - self.started_at) * 1000)

    def run(self) -> str:
        """Work until the session ends; returns the reason. Raises SessionOver or ServerUnreachable."""
        hello = msg.Hello(
            protocol=msg.PROTOCOL_VERSION, node=self.slot.node, pid=os.getpid(), boot_id=self.boot_id
        )
        self.config = self.client.hello(hello)
        self.patience_seconds = self.config.disconnected_seconds
        self.queue.runtime_ms = _milliseconds(self.config.max_task_runtime_seconds)
        self.queue.max_unacknowledged_bytes = self.config.gathering_bytes
        self.queue.no_progress_ms = _milliseconds(self.config.no_progress_seconds)
        staging = Path(self.config.staging)
        thumbnails = Path(self.config.thumbnails) if self.config.thumbnails else None
        folders = StagingFolders(
            staging, thumbnails, self.directory / "decoder", self.config.stem, self.config.output_name
        )
        self.reports = ReportSender(self.client, self.inbox.put, staging, thumbnails or staging)
        self.stager = OutputStager(self.inbox.put, self.reports.send, folders, self.slot.sandbox)
        self.poller = StatePoller(self.client, self.inbox.put, min(20.0, self.config.lease_seconds / 3))
        self.reports.start()
        try:
            self.layout = self._prepare()
        except (BadInputs, SandboxUnavailable, OSError) as error:
            cause, message = _fault_of_node(error)
            self.reports.send(msg.SessionFailed(cause=cause, message=message))
            self.reports.finish(LAST_REPORT_SECONDS)
            return f"machine_unfit: {message}"
        self.stager.start()
        self.poller.start()
        try:
            while not self.queue.done:
                self._handle(self._next_event())
        finally:
            self._kill_blender()
            self.client.closing = True
        self.stager.finish(hurry=self.queue.cancelled)
        self.reports.send(msg.SessionEnded(reason=self.reason))
        self.reports.finish(LAST_REPORT_SECONDS)
        return self.reason

    def _prepare(self) -> Layout:
        """Check the sandbox and the install, make the folders, lay out the inputs."""
        problem = sandbox.check(self.slot.sandbox)
        if problem is not None:
            raise SandboxUnavailable(problem)
        if not os.path.exists(self.config.package.path):
            raise SandboxUnavailable(f"Blender is not at {self.config.package.path} any more.")
        for folder in filter(None, (self.config.staging, self.config.logs, self.config.thumbnails)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        inputs = self.client.inputs().inputs
        reserved = needed_folders(self.config.package)
        return lay_out(inputs, self.directory / "inputs", self.slot.sandbox, reserved)

    # ------------------------------------------------------------------------------ the inbox

    def _next_event(self) -> object:
        deadline = self.queue.next_deadline_ms
        if deadline is None:
            return self.inbox.get()
        try:
            return self.inbox.get(timeout=max(0, deadline - self.now_ms()) / 1000)
        except queue.Empty:
            return DeadlineReached()

    def _handle(self, event: object) -> None:
        match event:
            case NewDesiredState(desired):
                self._report(*self.queue.take(desired, self.now_ms()))
                if self.queue.preempted:
                    self.reason = "preempted"
                if self.queue.cancelled:
                    self.reason = "cancelled"
                    self._kill_blender()
            case Opened():
                self._on_opened(event)
            case Saved():
                self._on_saved(event)
            case FramesStaged(count, size_bytes):
                self.queue.staged(count, size_bytes)
            case FramesAcknowledged(size_bytes):
                self.queue.acknowledged(size_bytes)
            case FrameRefused():
                self._on_refused(event)
            case Failed(cause, message, _) if is_node_fault(cause):
                self._fail_session(cause, message)
            case Failed(cause, message, frame):
                self._discard_blender(self.queue.failed(cause, message, frame, self.now_ms()))
            case Exited():
                self._on_exited(event)
            case Progress(frame, fraction):
                self.queue.sign_of_life(self.now_ms())
                current = self.queue.current
                if current is not None:
                    self.poller.progress = msg.Progress(
                        attempt=current.order.attempt, frame=frame, fraction=fraction
                    )
            case StopRequest():
                self.reason = "stopped"
                self._report(*self.queue.stop(self.now_ms()))
            case SessionAborted(reason):
                raise SessionOver(reason)
        ended = self.queue.overdue(self.now_ms())
        if ended:
            self._discard_blender(ended)
        self._continue()

    def _continue(self) -> None:
        """Take the next step towards a rendered frame: start Blender, or render."""
        if not self.queue.tasks or self.queue.cancelled:
            return
        if self.blender is None:
            self._start_blender()
            return
        if not self.scene_open:
            return
        to_render = self.queue.next(self.now_ms())
        if to_render is None:
            return
        if to_render.first:
            self._report_start()
        self._log_begun_frame(to_render.frame)
        self.blender.render(to_render.frame)

    # -------------------------------------------------------------------------------- Blender

    def _start_blender(self) -> None:
        self._begin_task()
        self.blenders_started += 1
        work = self.directory / f"work-{self.blenders_started}"
        try:
            work.mkdir(mode=0o755)
            self.blender = Blender(
                BlenderLimits.of(self.slot),
                self.config.package,
                SceneOrder.of(self.config),
                self.layout,
                work,
                self.inbox,  # type: ignore[arg-type]
                self.log.write,
                shader_cache.place(self.slot.shader_cache, self.config.account, self.config.package),
            )
        except (SandboxUnavailable, OSError) as error:
            self._fail_session(*_fault_of_node(error))
            return
        self._open_scene(self.blender)

    def _open_scene(self, blender: Blender) -> None:
        self.scene_open = False
        self.queue.opening(self.now_ms())
        blender.open_scene()

    def _begin_task(self) -> None:
        """Begin the next task's attempt now, so that its time includes loading the scene."""
        if self.queue.current is None:
            self.queue.begin_without_frame(self.now_ms())
            self._report_start()

    def _discard_blender(self, events: list[msg.Event]) -> None:
        """After a failure: the next task gets a new Blender."""
        self._kill_blender()
        self._report(*events)

    def _kill_blender(self) -> None:
        blender, self.blender = self.blender, None
        self.scene_open = False
        if blender is not None:
            blender.kill()
            self._drop_blender_events()

    def _drop_blender_events(self) -> None:
        """Remove the killed Blender's events from the inbox; the others keep their order."""
        kept: list[object] = []
        with contextlib.suppress(queue.Empty):
            while True:
                event = self.inbox.get_nowait()
                if not isinstance(event, (Opened, Saved, Failed, Exited, Progress)):
                    kept.append(event)
        for event in kept:
            self.inbox.put(event)

    # ------------------------------------------------------------------------------ its events

    def _on_opened(self, event: Opened) -> None:
        self.scene_open = True
        if event.unwatched and not self.unwatched:
            self.unwatched = event.unwatched
            _write_line({"missing_files_unseen": event.unwatched})
        self.queue.opened()
        self._report(
            msg.BlenderOpened(
                blender=event.blender_version,
                load_seconds=event.load_seconds,
                warnings=list(event.warnings),
            )
        )

    def _on_saved(self, event: Saved) -> None:
        now = self.now_ms()
        result = self.queue.saved(event.frame, event.peak_memory_bytes, now)
        if result is None:
            return
        attempt, events = result
        self.stager.add(
            SavedFrame(
                attempt, event.frame, event.directory, now, event.seconds, event.peak_memory_bytes,
                event.warnings, event.width, event.height, event.has_picture,
            )
        )  # fmt: skip
        self._report(*events)

    def _on_refused(self, event: FrameRefused) -> None:
        if is_node_fault(event.cause):
            self._fail_session(event.cause, event.message)
            return
        ended = self.queue.refused(event.attempt, event.cause, event.message, event.frame, self.now_ms())
        if ended is None:
            # Its last frame was saved before, but the stager dropped its TaskEnded: report a failure instead.
            now = self.now_ms()
            ended = msg.TaskEnded(
                attempt=event.attempt,
                outcome="failed",
                started_ms=now,
                ended_ms=now,
                cause=event.cause,
                message=event.message,
                frame=event.frame,
            )
        self._discard_blender([])
        self.reports.send(ended)

    def _on_exited(self, event: Exited) -> None:
        if event.cause in {"closed", "killed", "failed"}:
            return
        self._discard_blender(self.queue.failed(event.cause, event.message, None, self.now_ms()))

    # ---------------------------------------------------------------------- reports and the log

    def _report(self, *events: msg.Event) -> None:
        """Report through the stager, so that a task's end follows its frames."""
        for event in events:
            self.stager.add(event)

    def _report_start(self) -> None:
        task = self.queue.current
        assert task is not None and task.started_ms is not None
        self.log.switch(Path(self.config.logs) / f"{task.order.attempt}.log")
        self._report(msg.TaskStarted(attempt=task.order.attempt, at_ms=task.started_ms))

    def _fail_session(self, cause: str, message: str) -> None:
        """The node cannot do this job: end the session and give back its tasks."""
        self.reason = "machine_unfit"
        self.queue.cancelled = True
        self.queue.tasks.clear()
        self.reports.send(msg.SessionFailed(cause=cause, message=message))

    def _log_begun_frame(self, frame: int) -> None:
        """Write a line to runner.log: the frame begun, and how long the farm had been silent by then."""
        task = self.queue.current
        assert task is not None
        line = {
            "begins": frame,
            "attempt": task.order.attempt,
            "revision": task.order.revision,
            "at_ms": time.time_ns() // 1_000_000,
            "silent_ms": round(self.client.silent_seconds * 1000),
        }
        _write_line(line)


def _write_line(line: dict[str, object]) -> None:
    """Write a line to runner.log."""
    with contextlib.suppress(OSError):  # the disk may be full
        os.write(1, msgspec.json.encode(line) + b"\n")


def _fault_of_node(error: BadInputs | SandboxUnavailable | OSError) -> tuple[str, str]:
    """(cause, message) of an error that keeps this node from rendering the job."""
    if not isinstance(error, OSError):
        return "machine_unfit", explain("machine_unfit", {"what": error.detail})
    what = f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full", explain("disk_full", {"what": what})
    return "machine_unfit", explain("machine_unfit", {"what": f"{what}."})


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
