"""Events of an open Blender, as `node/blender.py` puts them into its owner's queue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from framefarm.protocol.node import NodeWarning


@dataclass(frozen=True)
class Opened:
    """The scene is open. `blender_version` is the exact one, as `4.2.23`.

    `unwatched`: why the kernel does not let the farm see Blender's lookups; empty if it does.
    """

    blender_version: str
    load_seconds: float
    warnings: tuple[NodeWarning, ...]
    unwatched: str = ""


@dataclass(frozen=True)
class Saved:
    """A frame is rendered; all its files are in `directory`, a path outside the sandbox.

    The files are hostile: only `output_files.collect` may read them. `peak_memory_bytes` is the most memory
    of Blender's process and its children during this frame. `width` and `height` are the size in pixels that
    the scene asks for, 0 if it is not known. Without `has_picture` the scene writes none of its own, only the
    files of File Output nodes.
    """

    frame: int
    directory: Path
    seconds: float
    peak_memory_bytes: int
    warnings: tuple[NodeWarning, ...]
    width: int = 0
    height: int = 0
    has_picture: bool = True


@dataclass(frozen=True)
class Progress:
    """A sign of life from the frame in work. `fraction`: the finished part of it, 0 to 1."""

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
    """Blender has ended: always the last event.

    `cause`: `closed` or `killed` by its owner, `failed` (after a Failed), or a code of core/failure_codes.py.
    """

    code: int
    signal: int | None
    cause: str
    message: str


Event = Opened | Saved | Progress | Failed | Exited
