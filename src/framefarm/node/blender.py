"""One open Blender in its sandbox, driven frame by frame.

All its replies, and its end, arrive as events in one queue, so that its owner can be a plain loop. The
program in the sandbox is hostile: it may send any reply at any time, and print without end.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import explain, is_node_fault
from framefarm.node import blender_protocol, shader_cache
from framefarm.node.blender_events import Event, Exited, Failed, Opened, Progress, Saved
from framefarm.node.blender_exit import Stage, count_memory_kills, judge_exit
from framefarm.node.blender_launch import BlenderLimits, SceneOrder, launch
from framefarm.node.blender_log import LogParser
from framefarm.node.blender_lookups import BlenderLookups
from framefarm.node.crash_traces import last_operator
from framefarm.node.inputs import Layout
from framefarm.node.sandbox import SandboxUnavailable
from framefarm.protocol.node import Package
from framefarm.sandboxing.lookup_watch import WatchLost

PROBE_BYTES = 64 << 10
"""Free bytes that the output folder must have; equal to the test file of in_blender/scene.py."""


@dataclass
class _RequestedFrame:
    frame: int
    number: int
    """Counts the requests of this Blender; names the frame's folder."""
    requested_at: float
    """Monotonic seconds."""


class Blender:
    """A Blender that starts when it is created, which must happen in the main thread.

    `work` is a new or empty folder of its own. `events` gets Opened, Progress, Saved, Failed and, last,
    Exited. `log` gets Blender's output, called from another thread. `shaders`: the folder of compiled shaders
    that are kept (node/shader_cache.py). Call `kill` even after Exited: it
    releases the user id and the descriptors. Raises SandboxUnavailable or OSError.
    """

    def __init__(
        self,
        limits: BlenderLimits,
        package: Package,
        order: SceneOrder,
        layout: Layout,
        work: Path,
        events: queue.SimpleQueue[Event],
        log: Callable[[bytes], object],
        shaders: Path | None = None,
    ) -> None:
        self._order = order
        self._layout = layout
        self._limits = limits
        self._output = work / "output"
        self._events = events
        self._log = log
        self._requested: deque[_RequestedFrame] = deque()
        self._opening_since: float | None = None
        self._free_since = 0.0
        self._requests = 0
        self._ending: str | None = None
        self._ready = False
        self._phase = ""
        self._memory_kills = count_memory_kills()
        self._log_parser = LogParser()
        launched = launch(limits, package, order, layout, work, shaders)
        self._shaders, self._has_saved = shaders, False
        self._tmp, self._lacks_graphics = work / "tmp", launched.lacks_graphics
        self._process, self._pipe, self._claim = launched.process, launched.pipe, launched.claim
        self._lookups = BlenderLookups(launched.watch, launched.places, layout)
        self._output_in_sandbox = launched.output
        self._threads = [
            threading.Thread(target=self._read_log, name="blender-log", daemon=True),
            threading.Thread(target=self._read_replies, name="blender-pipe", daemon=True),
        ]
        threading.Thread(target=self._await_watcher, name="blender-watcher", daemon=True).start()
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Id of the sandbox's outermost process; the sandbox ends with it."""
        return self._process.pid

    def open_scene(self) -> None:
        """Open the scene, or reopen it. Opened or Failed follows."""
        self._opening_since = time.monotonic()
        self._log_parser.expect_opening()
        self._send(
            blender_protocol.OpenScene(
                scene=self._layout.in_sandbox(self._order.scene_path),
                remap=list(self._layout.remap),
                render=self._order.render,
                threads=len(self._limits.cores),
                allow_scripts=self._order.allow_scripts,
                play_history=self._order.play_history,
                output=self._output_in_sandbox,
                gpus=self._limits.gpus,
                addons=[self._layout.in_sandbox(addon) for addon in self._order.addons],
            )
        )

    def render(self, frame: int) -> None:
        """Render `frame` after all earlier requests. Saved or Failed follows."""
        self._requests += 1
        self._requested.append(_RequestedFrame(frame, self._requests, time.monotonic()))
        directory = f"{self._output_in_sandbox}/{self._requests}"
        self._send(
            blender_protocol.RenderFrame(frame=frame, directory=directory, picture=picture_name(frame))
        )

    def kill(self) -> None:
        """Kill Blender with all its child processes and wait for the end. Exited follows."""
        self._ending = self._ending or "killed"
        self._process.kill()
        self._finish()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Ask Blender to end, and kill it after the time-out. Exited follows."""
        self._ending = self._ending or "closed"
        self._send(blender_protocol.Close())
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._finish()

    # ------------------------------------------------------------------- requests and replies

    def _send(self, request: blender_protocol.Request) -> None:
        try:
            self._pipe.sendall(blender_protocol.request_line(request))
        except OSError:
            return  # it has ended: Exited reports why

    def _read_replies(self) -> None:
        buffer = bytearray()
        try:
            while chunk := self._pipe.recv(65536):
                start = len(buffer)
                buffer += chunk
                while (end := buffer.find(b"\n", start)) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    start = 0
                    self._handle(blender_protocol.read_reply(line))
                if len(buffer) > blender_protocol.MAX_LINE_BYTES:
                    raise ValueError("a line without end")
        except ValueError as error:
            self._fail(
                "bad_report", explain("bad_report", {"what": blender_protocol.clean(str(error))}), None
            )
        except OSError:
            pass
        self._await_exit()

    def _handle(self, reply: blender_protocol.Reply) -> None:
        """Raises ValueError for a reply without its request."""
        self._ready = True
        match reply:
            case blender_protocol.ReadyReply():
                pass
            case blender_protocol.PhaseReply(phase):
                self._phase = phase
            case blender_protocol.ProgressReply(frame, fraction):
                if self._requested and self._requested[0].frame == frame and 0 <= fraction <= 1:
                    self._events.put(Progress(frame, fraction))
            case blender_protocol.SavedReply():
                self._handle_saved(reply, time.monotonic())
            case blender_protocol.OpenedReply():
                self._handle_opened(reply, time.monotonic())
            case blender_protocol.FailedReply(cause, facts, frame):
                known = frame if self._requested and frame == self._requested[0].frame else None
                self._fail(*self._credible_cause(cause, facts), known)

    def _handle_saved(self, reply: blender_protocol.SavedReply, now: float) -> None:
        if not self._requested or self._requested[0].frame != reply.frame:
            raise ValueError(f"it saved frame {reply.frame}, which was not asked for")
        request, self._phase = self._requested.popleft(), ""
        self._has_saved = True
        seconds = now - max(request.requested_at, self._free_since)
        self._free_since = now
        directory = self._output / str(request.number)
        memory_bytes = max(0, min(reply.peak_memory_bytes, 1 << 50))
        warnings = blender_protocol.warnings_of(reply.notes)
        width, height = (max(0, min(side, 1 << 20)) for side in (reply.width, reply.height))
        try:
            warnings += self._lookups.of_frame()
        except WatchLost:
            self._fail_unwatched()
            return
        self._events.put(
            Saved(reply.frame, directory, seconds, memory_bytes, warnings, width, height, reply.picture)
        )

    def _handle_opened(self, reply: blender_protocol.OpenedReply, now: float) -> None:
        since, self._opening_since = self._opening_since, None
        if since is None:
            raise ValueError("it opened a scene unasked")
        # The reply may overtake the output, which comes through another descriptor.
        self._log_parser.wait_until_opened(5)
        if "OCIO" in self._order.environment and self._log_parser.ocio_trouble:
            path = self._order.environment["OCIO"]
            self._fail("ocio_fallback", explain("ocio_fallback", {"path": path}), None)
            return
        self._free_since = now
        version = blender_protocol.clean(reply.blender)[:64]
        warnings = blender_protocol.warnings_of(reply.notes)
        warnings += blender_protocol.unknown_colours(self._log_parser.unknown_colours)
        try:
            warnings += self._lookups.of_opening(reply.users, {w.subject for w in warnings})
        except WatchLost:
            self._fail_unwatched()
            return
        self._events.put(Opened(version, now - since, warnings, self._lookups.refused))

    def _await_watcher(self) -> None:
        """Fail at once if the watcher ends before Blender: from then on Blender finds no file."""
        self._lookups.wait()
        self._fail_unwatched()

    def _fail_unwatched(self) -> None:
        what = "the watch of its files ended"
        self._fail("blender_broken", explain("blender_broken", {"what": what}), None)

    def _credible_cause(self, cause: str, facts: dict[str, str]) -> tuple[str, str]:
        """(cause, message) of a failed reply. A fault of the node counts only if the node itself confirms it;
        else the cause is `render_failed`."""
        message = blender_protocol.sentence_of(cause, facts)
        confirmed = {
            "disk_full": lambda: _is_full(self._output),
            "gpu_absent": lambda: self._limits.gpus > 0,
            "output_unwritable": lambda: _is_unwritable(self._output, self._claim.uid),
        }
        if is_node_fault(cause) and not (cause in confirmed and confirmed[cause]()):
            what = blender_protocol.clean(facts.get("what", "")) or cause
            return "render_failed", explain("render_failed", {"where": "", "what": what})
        return cause, message

    def _fail(self, cause: str, message: str, frame: int | None) -> None:
        if self._ending is None:
            self._ending = "failed"
            self._events.put(Failed(cause, message, frame))

    def _read_log(self) -> None:
        try:
            while printed := os.read(self._process.output, 65536):
                self._log_parser.parse(printed)
                self._log(printed)
        except OSError:
            return

    # ----------------------------------------------------------------------------------- end

    def _await_exit(self) -> None:
        try:
            # Its pipe is closed: a Blender that does not end now hangs.
            code = self._process.wait(0.0 if self._ending == "failed" else 5.0)
        except subprocess.TimeoutExpired:
            self._ending = self._ending or "hung_at_exit"
            self._process.kill()
            code = self._process.wait()
        self._threads[0].join(5)
        frame = self._requested[0].frame if self._requested else None
        stage = Stage(self._ready, self._opening_since is not None, frame, self._phase)
        limit = self._process.explain(stage.where)
        if limit is not None and self._ending is None:
            assert self._process.killed_for is not None
            self._events.put(Exited(code, signal.SIGKILL, self._process.killed_for, limit))
            return
        now, before = count_memory_kills(), self._memory_kills
        for_memory = None if now is None or before is None else now > before
        self._events.put(
            judge_exit(
                code,
                self._ending,
                stage,
                self._log_parser.tail,
                for_memory,
                operator=last_operator(self._tmp),
                lacks_graphics=self._lacks_graphics,
            )
        )

    def _finish(self) -> None:
        for thread in self._threads:
            thread.join(10)
        self._pipe.close()
        self._lookups.close()
        if not any(thread.is_alive() for thread in self._threads):
            self._process.close()
        if self._has_saved:
            shader_cache.take_back(self._shaders, self._tmp)
            self._has_saved = False
        self._claim.release()


def picture_name(frame: int) -> str:
    """Start of a picture's name in the frame's folder, numbered by Blender's rule: `picture_-0003`."""
    return f"picture_{'-' if frame < 0 else ''}{abs(frame):04d}"


def _is_full(folder: Path) -> bool:
    """Whether the folder has less free space than in_blender/scene.py needs for its test file."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize < PROBE_BYTES or state.f_favail == 0 < state.f_files


def _is_unwritable(folder: Path, uid: int) -> bool:
    """Whether the machine keeps Blender's user from writing to its folder. Its mode says nothing: a script in
    Blender may have changed that."""
    try:
        if folder.stat().st_uid != uid:
            return True
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError:
        return True


__all__ = [
    "Blender",
    "BlenderLimits",
    "Event",
    "Exited",
    "Failed",
    "Opened",
    "Progress",
    "SandboxUnavailable",
    "Saved",
    "SceneOrder",
    "picture_name",
]  # fmt: skip
