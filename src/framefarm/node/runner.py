"""The life of a session: one process, started by an engine, that holds one slot for one job.

`python -m framefarm.node.runner` with a Slot as JSON on standard input; see docs/node-protocol.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from framefarm.core.failure_codes import explain, is_node_fault
from framefarm.node import sandbox
from framefarm.node.blender import Blender, BlenderLimits, SceneOrder, places
from framefarm.node.blender_events import Exited, Failed, Opened, Progress, Saved
from framefarm.node.blender_log import BlenderLog
from framefarm.node.inputs import BadInputs, Layout, lay_out
from framefarm.node.output_stager import Frame, OutputStager, Refused, Staged, StagingFolders
from framefarm.node.sandbox import SandboxUnavailable
from framefarm.node.server_client import ServerClient, ServerUnreachable, SessionOver
from framefarm.node.server_threads import Acknowledged, Over, ReportSender, StatePoller, Wanted
from framefarm.node.task_queue import TaskQueue
from framefarm.protocol import node as msg
from framefarm.sandboxing.safe_remove import remove_tree

FIRST_PATIENCE_SECONDS = 60.0
FAREWELL_SECONDS = 20.0


class Stop:
    """SIGTERM: stop now."""


class Tick:
    """Something may be overdue."""


class Runner:
    """One session. The main loop takes one thing after the other from its inbox."""

    def __init__(self, slot: msg.Slot) -> None:
        self.slot = slot
        self.directory = Path(slot.directory)
        self.zero = time.monotonic()
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.patience = FIRST_PATIENCE_SECONDS
        self.link = ServerClient(slot, lambda: self.patience)
        self.desk = TaskQueue()
        self.blender: Blender | None = None
        self.ready = False
        """The scene is open."""
        self.fresh = True
        """No frame of a task was rendered since the scene was opened."""
        self.generation = 0
        self.log = BlenderLog(64 << 20)
        self.reason = "ended"

    def now_ms(self) -> int:
        return round((time.monotonic() - self.zero) * 1000)

    def run(self) -> str:
        """Live; returns why it ended."""
        hello = msg.Hello(
            protocol=msg.PROTOCOL_VERSION, node=self.slot.node, pid=os.getpid(), boot_id=_boot_id()
        )
        self.order = self.link.hello(hello)
        self.patience = self.order.disconnected_seconds
        self.desk.runtime_ms = _milliseconds(self.order.max_task_runtime_seconds)
        self.desk.most_gathered_bytes = self.order.gathering_bytes
        self.desk.silence_ms = _milliseconds(self.order.no_progress_seconds)
        staging = Path(self.order.staging)
        thumbnails = Path(self.order.thumbnails) if self.order.thumbnails else None
        kept = StagingFolders(staging, thumbnails, self.directory / "decoder", self.order.stem)
        self.reports = ReportSender(self.link, self.inbox.put, staging, thumbnails or staging)
        self.collector = OutputStager(self.inbox.put, self.reports.send, kept, self.slot.sandbox)
        self.sync = StatePoller(self.link, self.inbox.put, min(20.0, self.order.lease_seconds / 3))
        self.reports.start()
        try:
            self.layout = self._prepare()
        except (BadInputs, SandboxUnavailable, OSError) as error:
            cause, message = _machines_fault(error)
            self.reports.send(msg.SessionFailed(cause=cause, message=message))
            self.reports.finish(FAREWELL_SECONDS)
            return f"machine_unfit: {message}"
        self.collector.start()
        self.sync.start()
        try:
            while not self.desk.done:
                self._one(self._next_event())
        finally:
            self._kill_blender()
            self.link.closing = True
        self.collector.finish(hurry=self.desk.cancelled)
        self.reports.send(msg.SessionEnded(reason=self.reason))
        self.reports.finish(FAREWELL_SECONDS)
        return self.reason

    def _prepare(self) -> Layout:
        why = sandbox.check(self.slot.sandbox)
        if why is not None:
            raise SandboxUnavailable(why)
        if not os.path.exists(self.order.package.path):
            raise SandboxUnavailable(f"Blender is not at {self.order.package.path} any more.")
        for folder in filter(None, (self.order.staging, self.order.logs, self.order.thumbnails)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        inputs = self.link.inputs().inputs
        reserved = places(self.order.package)
        return lay_out(inputs, self.directory / "inputs", self.slot.sandbox, reserved)

    # ---------------------------------------------------------------------------- the loop

    def _next_event(self) -> object:
        due = self.desk.due_ms
        if due is None:
            return self.inbox.get()
        try:
            return self.inbox.get(timeout=max(0, due - self.now_ms()) / 1000)
        except queue.Empty:
            return Tick()

    def _one(self, event: object) -> None:
        match event:
            case Wanted(desired):
                self._tell(*self.desk.take(desired, self.now_ms()))
                if self.desk.preempted:
                    self.reason = "preempted"
                if self.desk.cancelled:
                    self.reason = "cancelled"
                    self._kill_blender()
            case Opened():
                self._opened(event)
            case Saved():
                self._saved(event)
            case Staged(count, told_bytes):
                self.desk.staged(count, told_bytes)
            case Acknowledged(told_bytes):
                self.desk.acknowledged(told_bytes)
            case Refused():
                self._refused(event)
            case Failed(cause, message, _) if is_node_fault(cause):
                self._unfit(cause, message)
            case Failed(cause, message, frame):
                self._replace(self.desk.failed(cause, message, frame, self.now_ms()))
            case Exited():
                self._exited(event)
            case Progress(frame, fraction):
                self.desk.heard(self.now_ms())
                current = self.desk.current
                if current is not None:
                    self.sync.progress = msg.Progress(
                        attempt=current.order.attempt, frame=frame, fraction=fraction
                    )
            case Stop():
                self.reason = "stopped"
                self._tell(*self.desk.stop(self.now_ms()))
            case Over(reason):
                raise SessionOver(reason)
        late = self.desk.overdue(self.now_ms())
        if late:
            self._replace(late)
        self._go_on()

    def _go_on(self) -> None:
        """Start Blender, open the scene, or render the next frame: whatever is due."""
        desk = self.desk
        if not desk.tasks or desk.cancelled:
            return
        if self.blender is None:
            self._start_blender()
            return
        if not self.ready:
            return
        begins = desk.current is None
        if begins and self.order.fresh_scene_per_task and not self.fresh:
            self._begin()
            self._open_scene(self.blender)
            return
        due = desk.next(self.now_ms())
        if due is None:
            return
        if due.first:
            self._announce()
        self.fresh = False
        self._note_begin(due.frame)
        self.blender.render(due.frame)

    def _start_blender(self) -> None:
        self._begin()
        self.generation += 1
        work = self.directory / f"work-{self.generation}"
        try:
            work.mkdir(mode=0o755)
            self.blender = Blender(
                BlenderLimits.of(self.slot),
                self.order.package,
                SceneOrder.of(self.order),
                self.layout,
                work,
                self.inbox,  # type: ignore[arg-type]
                self.log.write,
            )
        except (SandboxUnavailable, OSError) as error:
            self._unfit(*_machines_fault(error))
            return
        self._open_scene(self.blender)

    def _open_scene(self, blender: Blender) -> None:
        self.ready, self.fresh = False, True
        self.desk.opening(self.now_ms())
        blender.open_scene()

    def _begin(self) -> None:
        """The attempt begins with Blender's start or the scene's opening: loading counts."""
        if self.desk.current is None:
            self.desk.begin_without_frame(self.now_ms())
            self._announce()

    def _announce(self) -> None:
        task = self.desk.current
        assert task is not None and task.started_ms is not None
        self.log.switch(Path(self.order.logs) / f"{task.order.attempt}.log")
        self._tell(msg.TaskStarted(attempt=task.order.attempt, at_ms=task.started_ms))

    def _opened(self, event: Opened) -> None:
        self.ready = True
        self.desk.opened()
        self._tell(
            msg.BlenderOpened(
                blender=event.blender_version, load_seconds=event.load_seconds, warnings=list(event.notes)
            )
        )

    def _saved(self, event: Saved) -> None:
        now = self.now_ms()
        result = self.desk.saved(event.frame, event.peak_memory_bytes, now)
        if result is None:
            return
        attempt, follows = result
        self.collector.add(
            Frame(
                attempt, event.frame, event.directory, now, event.seconds, event.peak_memory_bytes,
                event.notes, event.width, event.height,
            )
        )  # fmt: skip
        self._tell(*follows)

    def _refused(self, event: Refused) -> None:
        if is_node_fault(event.cause):
            self._unfit(event.cause, event.message)
            return
        ended = self.desk.refused(event.attempt, event.cause, event.message, event.frame, self.now_ms())
        if ended is None:
            # Its last frame was saved already; what the collector held back is told now, as a failure.
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
        self._replace([])
        self.reports.send(ended)

    def _exited(self, event: Exited) -> None:
        if event.cause in {"closed", "killed", "failed"}:
            return
        self._replace(self.desk.failed(event.cause, event.message, None, self.now_ms()))

    def _replace(self, said: list[msg.Event]) -> None:
        """After a failure Blender is not to be trusted: the next task gets a new one."""
        self._kill_blender()
        self._tell(*said)

    def _unfit(self, cause: str, message: str) -> None:
        self.reason = "machine_unfit"
        self.desk.cancelled = True
        self.desk.tasks.clear()
        self.reports.send(msg.SessionFailed(cause=cause, message=message))

    def _note_begin(self, frame: int) -> None:
        """One line in runner.log for each frame begun, and how long the farm had been silent then: what a
        machine did, told by the machine."""
        task = self.desk.current
        assert task is not None
        line = {
            "begins": frame,
            "attempt": task.order.attempt,
            "revision": task.order.revision,
            "at_ms": time.time_ns() // 1_000_000,
            "silent_ms": round(self.link.silent_seconds * 1000),
        }
        with contextlib.suppress(OSError):  # the disk may be full
            os.write(1, msgspec.json.encode(line) + b"\n")

    def _tell(self, *events: msg.Event) -> None:
        """By way of the collector, so that a task's end follows its frames."""
        for event in events:
            self.collector.add(event)

    def _kill_blender(self) -> None:
        blender, self.blender = self.blender, None
        self.ready = False
        if blender is not None:
            blender.kill()
            self._forget_events()

    def _forget_events(self) -> None:
        """What the ended Blender said and nobody heard is void; all else stays in order."""
        kept: list[object] = []
        with contextlib.suppress(queue.Empty):
            while True:
                event = self.inbox.get_nowait()
                if not isinstance(event, (Opened, Saved, Failed, Exited, Progress)):
                    kept.append(event)
        for event in kept:
            self.inbox.put(event)


def _machines_fault(error: BadInputs | SandboxUnavailable | OSError) -> tuple[str, str]:
    """Why nothing can be rendered here: (cause, message)."""
    if not isinstance(error, OSError):
        return "machine_unfit", explain("machine_unfit", {"what": error.detail})
    what = f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full", explain("disk_full", {"what": what})
    return "machine_unfit", explain("machine_unfit", {"what": f"{what}."})


def end_with_threads(put: Callable[[object], None]) -> None:
    """From now on a thread that fails ends the session: without its lanes a runner would keep its tasks, and
    its lease, for ever."""

    def failed(what: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(what)
        name = what.thread.name if what.thread else "a thread"
        put(Over(f"runner_failed: {name}: {what.exc_value!r}"))

    threading.excepthook = failed


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def main() -> int:
    """Exit status 0: the session lived and ended; 1: it could not begin."""
    slot = msgspec.json.decode(sys.stdin.buffer.read(), type=msg.Slot)
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    directory = Path(slot.directory)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another runner holds this session", file=sys.stderr)  # noqa: T201
        return 1
    started = {"pid": os.getpid(), "boot_id": _boot_id(), "started_ns": time.time_ns()}
    (directory / "runner.json").write_bytes(msgspec.json.encode(started))
    runner = Runner(slot)
    end_with_threads(runner.inbox.put)
    signal.signal(signal.SIGTERM, lambda *_: runner.inbox.put(Stop()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reason = runner.run()
    except (SessionOver, ServerUnreachable) as error:
        reason = str(error)
    except Exception as error:
        reason = f"runner_failed: {error!r}"
        raise
    finally:
        with contextlib.suppress(OSError):  # the disk may be full; what is there is still removed
            (directory / "ended.json").write_bytes(msgspec.json.encode({"reason": reason}))
        for entry in directory.iterdir():
            if entry.name in {"inputs", "decoder"} or entry.name.startswith("work-"):
                remove_tree(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
