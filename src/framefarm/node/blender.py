"""One open Blender in its sandbox, driven frame by frame.

Everything it has to say arrives as an event on one queue, so that its owner is a plain loop. The program
inside is hostile: it may say anything at any time, and print without end.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import explain, is_machines
from framefarm.core.paths import normalise
from framefarm.node import blender_protocol
from framefarm.node.blender_events import (
    OPENED_MARK,
    Event,
    Exited,
    Failed,
    Opened,
    Progress,
    Saved,
    Stage,
    judge_exit,
    memory_kills,
)  # fmt: skip
from framefarm.node.inputs import Layout
from framefarm.node.sandbox import INSIDE, OUTPUT, Bind, Mode, Process, Sandbox, SandboxUnavailable, passable
from framefarm.protocol.node import Package, RenderSettings, SessionConfig, Slot
from framefarm.sandboxing.limits import Limits
from framefarm.sandboxing.uids import UidClaim

IN_BLENDER = Path(__file__).with_name("in_blender")
DRIVER = f"driver/{IN_BLENDER.name}"

OCIO_TROUBLE = (b"OpenColorIO Error", b"fallback mode for management", b"could not load OCIO", b"OCIO Error")


@dataclass(frozen=True)
class BlenderLimits:
    """Where Blender sits: the processors it may use, and as whom it runs."""

    cores: tuple[int, ...]
    uid: int
    sandbox: Mode = "bubblewrap"
    memory_bytes: int | None = None
    """Of Blender with all it starts; None: no limit."""
    gpus: int = 0

    @classmethod
    def of(cls, slot: Slot) -> BlenderLimits:
        return cls(slot.cores, slot.uid, slot.sandbox, slot.memory_bytes or None, slot.gpus)


@dataclass(frozen=True)
class SceneOrder:
    """Which scene, and how it is to be rendered."""

    scene_path: str
    render: RenderSettings
    environment: Mapping[str, str]
    allow_scripts: bool = False
    play_history: bool = False
    """Step through the frames before the first one asked for: simulations depend on them."""
    addons: Sequence[str] = ()
    """Inputs that are add-ons, to be enabled before the scene opens."""

    @classmethod
    def of(cls, order: SessionConfig) -> SceneOrder:
        scripts, history = order.allow_scripts, order.fresh_scene_per_task
        return cls(order.scene_path, order.render, order.environment, scripts, history, order.addons)


@dataclass
class _Asked:
    frame: int
    number: int
    at: float


class Blender:
    """Starts at once; make it in the main thread. `work` is a new or empty folder of its own.

    `events` gets Opened, Progress, Saved, Failed and, last, Exited. `log` gets what Blender prints, from
    another thread. When it has ended by itself (Exited), `kill` gives back what it held.
    Raises SandboxUnavailable.
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
    ) -> None:
        self._order = order
        self._layout = layout
        self._limits = limits
        self._work = work
        self._events = events
        self._log = log
        self._asked: deque[_Asked] = deque()
        self._opening_since: float | None = None
        self._free_since = 0.0
        self._number = 0
        self._ending: str | None = None
        self._ready = False
        self._memory_kills = memory_kills()
        self._tail = b""
        self._ocio_trouble = False
        self._mark_seen = threading.Event()
        self._inside_output = OUTPUT if limits.sandbox == "bubblewrap" else str(work / "output")
        self._process = self._start(package)
        self._threads = [
            threading.Thread(target=self._read_log, name="blender-log", daemon=True),
            threading.Thread(target=self._read_replies, name="blender-pipe", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process outside the sandbox whose end is the sandbox's end."""
        return self._process.pid

    def open_scene(self) -> None:
        """Open the scene; call it again to open it afresh. Answered by Opened or Failed."""
        self._opening_since = time.monotonic()
        self._mark_seen.clear()
        self._send(
            blender_protocol.OpenScene(
                scene=self._layout.inside(self._order.scene_path),
                remap=list(self._layout.remap),
                render=self._order.render,
                threads=len(self._limits.cores),
                allow_scripts=self._order.allow_scripts,
                play_history=self._order.play_history,
                output=self._inside_output,
                gpus=self._limits.gpus,
                addons=[self._layout.inside(addon) for addon in self._order.addons],
            )
        )

    def render(self, frame: int) -> None:
        """Render `frame` after all that was asked for before. Answered by Saved or Failed."""
        self._number += 1
        self._asked.append(_Asked(frame, self._number, time.monotonic()))
        directory = f"{self._inside_output}/{self._number}"
        self._send(
            blender_protocol.RenderFrame(frame=frame, directory=directory, picture=picture_name(frame))
        )

    def kill(self) -> None:
        """End the whole tree and wait for it. Exited follows."""
        self._ending = self._ending or "killed"
        self._process.kill()
        self._finish()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Ask Blender to end; kill what has not ended in time. Exited follows."""
        self._ending = self._ending or "closed"
        self._send(blender_protocol.Close())
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._finish()

    # ------------------------------------------------------------------------------- starting

    def _start(self, package: Package) -> Process:
        self._claim = UidClaim(self._limits.uid)
        for name in ("output", "tmp", "driver"):
            (self._work / name).mkdir(mode=0o700)
        if os.geteuid() == 0:
            for name in ("output", "tmp"):
                os.chown(self._work / name, self._claim.uid, self._claim.uid)
        (self._work / "driver").chmod(0o755)
        copy = self._work / DRIVER
        copy.mkdir(mode=0o755)
        for source in IN_BLENDER.glob("*.py"):
            shutil.copyfile(source, copy / source.name)
            (copy / source.name).chmod(0o644)
        copy.chmod(0o755)
        self._pipe, theirs = socket.socketpair()
        with theirs:
            given = self._limits
            tmp, output = self._work / "tmp", self._work / "output"
            limits = Limits.of_blender(len(given.cores), given.memory_bytes, str(tmp), str(output))
            box = Sandbox(given.sandbox, self._claim.uid, given.cores, self._binds(package), tmp, limits)
            program = self._program(package, theirs.fileno())
            return box.start(program, self._environment(), [theirs.fileno()])

    def _binds(self, package: Package) -> tuple[Bind, ...]:
        if self._limits.sandbox == "none":
            if os.geteuid() == 0:
                passable(self._work / "output")
            return ()
        binds = [
            *self._layout.binds,
            Bind(str(self._work / "output"), OUTPUT, writable=True),
            Bind(str(self._work / "driver"), f"{INSIDE}/driver"),
        ]
        runtime = _runtime(package)
        if runtime is not None:
            binds.append(Bind(str(runtime), f"{INSIDE}/blender"))
        binds += [Bind(place, place) for place in places(package)]
        return tuple(binds)

    def _program(self, package: Package, descriptor: int) -> list[str]:
        path = package.path
        driver = self._work / DRIVER
        if self._limits.sandbox == "bubblewrap":
            driver = Path(INSIDE, DRIVER)
            runtime = _runtime(package)
            if runtime is not None:
                path = f"{INSIDE}/blender/{Path(package.path).relative_to(runtime)}"
        last = ["--", "--pipe", str(descriptor)]
        if package.kind == "bpy":
            return [path, "-I", "-B", str(driver / "main.py"), *last]
        scripts = "-y" if self._order.allow_scripts else "-Y"
        threads = str(len(self._limits.cores))
        options = ["-b", "--factory-startup", scripts, "-noaudio", "-t", threads]
        return [path, *options, "--python-exit-code", "1", "--python", str(driver / "main.py"), *last]

    def _environment(self) -> dict[str, str]:
        inside = self._limits.sandbox == "bubblewrap"
        home = "/tmp" if inside else str(self._work / "tmp")  # noqa: S108
        remap = {**self._order.environment}
        if "OCIO" in remap:
            remap["OCIO"] = self._layout.inside(normalise(remap["OCIO"]).text)
        own = {"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        return {**remap, **own, "BLENDER_USER_RESOURCES": f"{home}/blender"}

    # -------------------------------------------------------------------------------- talking

    def _send(self, request: blender_protocol.Request) -> None:
        try:
            self._pipe.sendall(blender_protocol.request_line(request))
        except OSError:
            return  # it has ended; Exited tells why

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
                    self._take(blender_protocol.read_reply(line))
                if len(buffer) > blender_protocol.MAX_LINE_BYTES:
                    raise ValueError("a line without end")
        except ValueError as error:
            self._fail(
                "bad_report", explain("bad_report", {"what": blender_protocol.clean(str(error))}), None
            )
        except OSError:
            pass
        self._await_exit()

    def _take(self, reply: blender_protocol.Reply) -> None:
        now = time.monotonic()
        self._ready = True
        match reply:
            case blender_protocol.ReadyReply():
                pass
            case blender_protocol.ProgressReply(frame, fraction):
                if self._asked and self._asked[0].frame == frame and 0 <= fraction <= 1:
                    self._events.put(Progress(frame, fraction))
            case blender_protocol.SavedReply(frame, memory, notes, width, height):
                if not self._asked or self._asked[0].frame != frame:
                    raise ValueError(f"it saved frame {frame}, which was not asked for")
                asked = self._asked.popleft()
                seconds = now - max(asked.at, self._free_since)
                self._free_since = now
                directory = self._work / "output" / str(asked.number)
                memory = max(0, min(memory, 1 << 50))
                told = blender_protocol.notes_of(notes)
                width, height = (max(0, min(side, 1 << 20)) for side in (width, height))
                self._events.put(Saved(frame, directory, seconds, memory, told, width, height))
            case blender_protocol.OpenedReply(blender, notes):
                since, self._opening_since = self._opening_since, None
                if since is None:
                    raise ValueError("it opened a scene unasked")
                if "OCIO" in self._order.environment:
                    # What it printed while it started may still be on its way.
                    self._mark_seen.wait(5)
                    if self._ocio_trouble:
                        given = self._order.environment["OCIO"]
                        self._fail("ocio_fallback", explain("ocio_fallback", {"path": given}), None)
                        return
                self._free_since = now
                self._events.put(
                    Opened(
                        blender_protocol.clean(blender)[:64], now - since, blender_protocol.notes_of(notes)
                    )
                )
            case blender_protocol.FailedReply(cause, facts, frame):
                known = frame if self._asked and frame == self._asked[0].frame else None
                self._fail(*self._believed(cause, facts), known)

    def _believed(self, cause: str, facts: dict[str, str]) -> tuple[str, str]:
        """Nothing inside may accuse the machine but where the machine's own look says the same."""
        said = blender_protocol.told(cause, facts)
        seen = {
            "disk_full": lambda: _is_full(self._work / "output"),
            "gpu_absent": lambda: self._limits.gpus > 0,
            "output_unwritable": lambda: self._opening_since is not None,
        }
        if is_machines(cause) and not (cause in seen and seen[cause]()):
            what = blender_protocol.clean(facts.get("what", "")) or cause
            return "render_failed", explain("render_failed", {"where": "", "what": what})
        return cause, said

    def _fail(self, cause: str, message: str, frame: int | None) -> None:
        if self._ending is None:
            self._ending = "failed"
            self._events.put(Failed(cause, message, frame))

    def _read_log(self) -> None:
        watch = "OCIO" in self._order.environment
        try:
            while printed := os.read(self._process.output, 65536):
                seen = self._tail + printed
                if watch:
                    self._ocio_trouble = self._ocio_trouble or any(line in seen for line in OCIO_TROUBLE)
                    if OPENED_MARK in seen:
                        self._mark_seen.set()
                self._tail = seen[-4096:]
                self._log(printed)
        except OSError:
            return

    # --------------------------------------------------------------------------------- ending

    def _await_exit(self) -> None:
        try:
            # It has closed its pipe: it has ended, or is up to something.
            code = self._process.wait(0.0 if self._ending == "failed" else 5.0)
        except subprocess.TimeoutExpired:
            self._ending = self._ending or "hung_at_exit"
            self._process.kill()
            code = self._process.wait()
        self._threads[0].join(5)
        frame = self._asked[0].frame if self._asked else None
        stage = Stage(self._ready, self._opening_since is not None, frame)
        limit = self._process.explain(stage.where)
        if limit is not None and self._ending is None:
            assert self._process.killed_for is not None
            self._events.put(Exited(code, signal.SIGKILL, self._process.killed_for, limit))
            return
        now, before = memory_kills(), self._memory_kills
        for_memory = None if now is None or before is None else now > before
        self._events.put(judge_exit(code, self._ending, stage, self._tail, for_memory))

    def _finish(self) -> None:
        for thread in self._threads:
            thread.join(10)
        self._pipe.close()
        if not any(thread.is_alive() for thread in self._threads):
            self._process.close()
        self._claim.release()


def picture_name(frame: int) -> str:
    """The start of a frame's picture inside, as Blender counts: `picture_0007`, `picture_-0003`."""
    return f"picture_{'-' if frame < 0 else ''}{abs(frame):04d}"


def places(package: Package) -> tuple[str, ...]:
    """Folders outside /usr that this Blender needs at their own paths: no input may cover them."""
    if package.kind != "bpy":
        return ()
    base = Path(package.path).resolve().parent.parent
    return () if base.is_relative_to("/usr") else (str(base),)


def _is_full(folder: Path) -> bool:
    """Less room than what the program inside tries to write before and after each frame."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize < 64 << 10 or state.f_favail == 0 < state.f_files


def _runtime(package: Package) -> Path | None:
    """The folder that holds this Blender, if it is not one of the system's."""
    path = Path(package.path)
    if path.is_relative_to("/usr"):
        return None
    return path.parent.parent if package.kind == "bpy" else path.parent


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
    "places",
]  # fmt: skip
