"""What becomes of an open Blender, as its owner sees it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import explain
from framefarm.node import blender_protocol
from framefarm.protocol.node import NodeWarning

OPENED_MARK = b"framefarm: the scene is open\n"
NO_MEMORY = (
    b"bad_alloc",
    b"Out of memory",
    b"out of memory",
    b"Malloc returns null",
    b"Cannot allocate memory",
)
NOISE = ("could not get a list of mounted file-systems", OPENED_MARK.decode().strip())
NO_GRAPHICS = (
    b"Couldn't find current GLX or EGL context", b"No OpenGL vendor detected", b"EGL_BAD", b"EGL_NOT",
    b"eglInitialize", b"Unable to open a display", b"GPU backend",
)  # fmt: skip


@dataclass(frozen=True)
class Opened:
    blender_version: str
    load_seconds: float
    notes: tuple[NodeWarning, ...]


@dataclass(frozen=True)
class Saved:
    """All files of the frame lie in `directory` (on this machine, hostile: see outputs.collect).

    `peak_memory_bytes`: of Blender's process during this frame, with its children. `width` and `height`: of
    each picture in pixels, as the scene asks for; 0 where that is not known.
    """

    frame: int
    directory: Path
    seconds: float
    peak_memory_bytes: int
    notes: tuple[NodeWarning, ...]
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Progress:
    frame: int
    fraction: float


@dataclass(frozen=True)
class Failed:
    """This Blender must be replaced. `cause` is a code of core/failure_codes.py, `message` its sentence."""

    cause: str
    message: str
    frame: int | None


@dataclass(frozen=True)
class Exited:
    """The last event, always. `cause`: `closed`, `killed`, `failed` (a Failed came before), or a code of
    core/failure_codes.py."""

    code: int
    signal: int | None
    cause: str
    message: str


Event = Opened | Saved | Progress | Failed | Exited


@dataclass(frozen=True)
class Stage:
    """What Blender was at when it ended. `ready`: it had started, and had its own library."""

    ready: bool = False
    opening: bool = False
    frame: int | None = None

    @property
    def where(self) -> str:
        if not self.ready:
            return " while it started"
        if self.opening:
            return " while it opened the scene"
        return "" if self.frame is None else f" in frame {self.frame}"


def judge_exit(
    code: int, ending: str | None, stage: Stage, printed: bytes, memory_kills: bool | None = None
) -> Exited:
    """Why Blender ended.

    `code` as `Process.wait` gives it; `ending` is what its owner had in mind (`closed`, `killed`, `failed`,
    `hung_at_exit`) or None; `printed` the end of its output. `memory_kills`: whether the kernel killed
    something for memory while this Blender lived, None if that is not known.
    """
    number = -code if code < 0 else None
    if ending == "hung_at_exit":
        return Exited(code, number, ending, explain(ending, {"where": stage.where}))
    if ending is not None:
        return Exited(code, number, ending, f"Blender was ended ({ending}).")
    name = next((s.name for s in signal.Signals if s == number), str(number))
    lines = [blender_protocol.clean(line) for line in printed[-1500:].decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line and line not in NOISE), "")[:300]
    facts = {
        "where": stage.where,
        "code": code,
        "signal": name,
        "last": f" It last printed: “{last}”." if last else "",
        "memory": "",
    }
    cause = _cause(code, number, stage, printed, memory_kills)
    return Exited(code, number, cause, explain(cause, facts))


def _cause(code: int, number: int | None, stage: Stage, printed: bytes, memory_kills: bool | None) -> str:
    if number == signal.SIGKILL:
        return "killed_outside" if memory_kills is False else "out_of_memory"
    if number is None and not stage.ready:
        return "not_started"
    if code == 127 or any(words in printed for words in NO_MEMORY):
        return "out_of_memory"
    if number is not None:
        graphics = number in (signal.SIGABRT, signal.SIGSEGV) and any(w in printed for w in NO_GRAPHICS)
        return "no_gl" if graphics else "crashed"
    return "ended_early"


def memory_kills() -> int | None:
    """How often this machine's kernel has killed something for memory, in any control group."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return None
