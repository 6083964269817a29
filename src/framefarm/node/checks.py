"""Is a staged frame what was asked for? The rules; whoever looks into the bytes is given.

The bytes of a picture are hostile, so that they are decoded in a sandbox of their own; what comes back is a
Look for each file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.causes import explain
from framefarm.protocol.node import Note, StagedFile


@dataclass(frozen=True)
class Look:
    """What a decoder saw. `trouble`: why it could not read the picture to its end, else None."""

    width: int = 0
    height: int = 0
    all_nan: bool = False
    uniform: bool = False
    """Every pixel has the same value."""
    trouble: str | None = None


Inspect = Callable[[Path], Look]
"""Decodes one file; never raises for a bad one. A decoder that dies is its caller's to tell from that."""


@dataclass(frozen=True)
class Checked:
    """`cause` and `message`: why the frame is not done, or None."""

    notes: tuple[Note, ...] = ()
    cause: str | None = None
    message: str | None = None


def check_frame(
    files: Sequence[StagedFile], folder: Path, width: int, height: int, inspect: Inspect
) -> Checked:
    """Look at each picture of a frame that lies staged in `folder`.

    `width` and `height` are what the scene asks for in pixels, 0 where that is not known. Extra files (of
    File Output nodes, of any size) must be whole if they are pictures by their name. A picture of one colour
    is a warning, never a failure.
    """
    notes: list[Note] = []
    for file in files:
        is_frame = file.kind == "frame"
        if not is_frame and Path(file.path).suffix.lower() not in PICTURES:
            continue
        look = inspect(folder / file.staged)
        if look.trouble is not None:
            return _failed("picture_broken", path=file.path, what=look.trouble)
        if is_frame and width and height and (look.width, look.height) != (width, height):
            is_, asked = f"{look.width}×{look.height}", f"{width}×{height}"
            return _failed("wrong_resolution", path=file.path, **{"is": is_, "asked": asked})
        if look.all_nan and is_frame:
            return _failed("all_nan", path=file.path)
        if look.uniform and is_frame:
            message = explain("uniform_picture", {"path": file.path})
            notes.append(Note(code="uniform_picture", message=message, subject=file.path))
    return Checked(tuple(notes))


PICTURES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".exr", ".bmp", ".tga", ".hdr", ".jp2"}
)


def _failed(cause: str, **facts: str) -> Checked:
    return Checked((), cause, explain(cause, facts))
