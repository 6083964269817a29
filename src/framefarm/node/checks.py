"""Is a staged frame what was asked for? The rules; `pictures.inspect` looks into the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.causes import CAUSES, explain
from framefarm.node.pictures import Picture, Undecodable
from framefarm.protocol.node import Note, StagedFile

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".exr"})
"""Endings of the extra files that are looked into; a frame's own pictures always are."""
Inspect = Callable[[Path], Picture | Undecodable]


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
    File Output nodes) may be of any size. A picture of one colour, and one that can't be looked into, is a
    warning and never a failure. Raises what `inspect` raises.
    """
    notes: list[Note] = []
    for file in files:
        is_frame = file.kind == "frame"
        if not is_frame and Path(file.path).suffix.lower() not in PICTURES:
            continue
        seen = inspect(folder / file.staged)
        if isinstance(seen, Undecodable):
            facts = {"path": file.path, "what": seen.message}
            if seen.cause in CAUSES and not CAUSES[seen.cause].warning:
                return Checked((), seen.cause, explain(seen.cause, facts))
            notes.append(_note("decoder_died" if seen.cause not in CAUSES else seen.cause, facts))
            continue
        if not is_frame:
            continue
        if width and height and (seen.width, seen.height) != (width, height):
            is_, asked = f"{seen.width}×{seen.height}", f"{width}×{height}"
            return _failed("wrong_resolution", path=file.path, **{"is": is_, "asked": asked})
        if seen.all_nan:
            return _failed("all_nan", path=file.path)
        if seen.all_equal:
            notes.append(_note("uniform_picture", {"path": file.path}))
    return Checked(tuple(notes))


def _note(code: str, facts: dict[str, str]) -> Note:
    return Note(code=code, message=explain(code, facts), subject=facts["path"])


def _failed(cause: str, **facts: str) -> Checked:
    return Checked((), cause, explain(cause, facts))
