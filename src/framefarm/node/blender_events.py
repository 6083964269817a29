"""What becomes of an open Blender, as its owner sees it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from framefarm.node import pipe
from framefarm.protocol.node import Note


@dataclass(frozen=True)
class Opened:
    blender_version: str
    load_seconds: float
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Saved:
    """All files of the frame lie in `directory` (on this machine, hostile: see outputs.collect)."""

    frame: int
    directory: Path
    seconds: float
    peak_memory_bytes: int
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Progress:
    frame: int
    fraction: float


@dataclass(frozen=True)
class Failed:
    """This Blender must be replaced. `cause` is a stable code, `message` one sentence for the artist."""

    cause: str
    message: str
    frame: int | None


@dataclass(frozen=True)
class Exited:
    """The last event, always. `cause`: `closed`, `killed`, `failed` (a Failed came before),
    `not_started`, `out_of_memory` or `crashed`."""

    code: int
    signal: int | None
    cause: str
    message: str


Event = Opened | Saved | Progress | Failed | Exited


def judge_exit(code: int, ending: str | None, frame: int | None, printed: bytes) -> Exited:
    """Why Blender ended. `code` as `Process.wait` gives it; `ending` is what its owner had in mind
    (`closed`, `killed`, `failed`) or None; `frame` the one in work; `printed` the end of its output."""
    number = -code if code < 0 else None
    where = "" if frame is None else f" in frame {frame}"
    if ending is not None:
        return Exited(code, number, ending, f"Blender was ended ({ending}).")
    if number == signal.SIGKILL or code == 127:
        message = f"Blender was killed{where}, most likely because memory ran out."
        return Exited(code, number, "out_of_memory", message)
    last = pipe.clean(printed[-1500:].decode(errors="replace").strip().rpartition("\n")[2])[:300]
    last = f" It last printed: {last}" if last else ""
    if number is not None:
        name = next((s.name for s in signal.Signals if s == number), str(number))
        return Exited(code, number, "crashed", f"Blender crashed{where} ({name}).{last}")
    cause = "not_started" if frame is None else "crashed"
    return Exited(code, None, cause, f"Blender ended unasked{where} with code {code}.{last}")
