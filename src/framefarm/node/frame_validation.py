"""Is a staged frame what was asked for? The rules; `pictures.Decoder` looks into the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import CAUSES, explain
from framefarm.node.image_decoder import ENDINGS, Picture, Undecodable
from framefarm.protocol.node import FrameColour, NodeWarning, StagedFile

Seen = Callable[[StagedFile], Picture | Undecodable]


@dataclass(frozen=True)
class Checked:
    """`cause` and `message`: why the frame is not done, or None. `look`: of its first picture."""

    notes: tuple[NodeWarning, ...] = ()
    cause: str | None = None
    message: str | None = None
    look: FrameColour | None = None


def to_look_at(files: Sequence[StagedFile]) -> list[StagedFile]:
    """All of a frame's own pictures, and the extra files that are called pictures."""
    return [f for f in files if f.kind == "frame" or Path(f.path).suffix.lower() in ENDINGS]


def check_frame(files: Sequence[StagedFile], width: int, height: int, seen_on: Seen) -> Checked:
    """Judge a frame by what was seen on each of its pictures.

    `width` and `height` are what the scene asks for in pixels, 0 where that is not known. Extra files (of
    File Output nodes) may be of any size. A picture of one colour is none of this frame alone: its neighbours
    tell (`core/frame_colour.py`). One that can't be looked into is a warning. Raises what `seen_on` raises.
    """
    notes: list[NodeWarning] = []
    look = None
    for file in to_look_at(files):
        seen = seen_on(file)
        if isinstance(seen, Undecodable):
            facts = {"path": file.path, "what": seen.message}
            if seen.cause in CAUSES and not CAUSES[seen.cause].warning:
                return Checked((), seen.cause, explain(seen.cause, facts))
            notes.append(_note("decoder_died" if seen.cause not in CAUSES else seen.cause, facts))
            continue
        if file.kind != "frame":
            continue
        if width and height and (seen.width, seen.height) != (width, height):
            is_, asked = f"{seen.width}×{seen.height}", f"{width}×{height}"
            return _failed("wrong_resolution", path=file.path, **{"is": is_, "asked": asked})
        if seen.all_nan:
            return _failed("all_nan", path=file.path)
        look = look or FrameColour(colour=None if seen.colour is None else list(seen.colour))
    return Checked(tuple(notes), look=look)


def _note(code: str, facts: dict[str, str]) -> NodeWarning:
    return NodeWarning(code=code, message=explain(code, facts), subject=facts["path"])


def _failed(cause: str, **facts: str) -> Checked:
    return Checked((), cause, explain(cause, facts))
