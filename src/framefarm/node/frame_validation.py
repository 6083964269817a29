"""The rules by which a staged frame counts or fails; `image_decoder.ImageDecoder` reads its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.failure_codes import CAUSES, explain
from framefarm.node.image_decoder import ENDINGS, Picture, Undecodable
from framefarm.protocol.node import FrameColour, NodeWarning, StagedFile

Decode = Callable[[StagedFile], Picture | Undecodable]


@dataclass(frozen=True)
class FrameCheck:
    """The result of a check. `cause` and `message`: why the frame fails; None if it counts."""

    warnings: tuple[NodeWarning, ...] = ()
    cause: str | None = None
    message: str | None = None
    colour: FrameColour | None = None
    """Colour of the frame's first picture; None if it could not be decoded."""


def pictures_to_check(files: Sequence[StagedFile]) -> list[StagedFile]:
    """All of a frame's own pictures, and the extra files that have a picture's ending."""
    return [f for f in files if f.kind == "frame" or Path(f.path).suffix.lower() in ENDINGS]


def check_frame(files: Sequence[StagedFile], width: int, height: int, decode: Decode) -> FrameCheck:
    """Check each of a frame's pictures; the first that fails decides. Raises what `decode` raises.

    `width` and `height` are what the scene asks for, in pixels, 0 if not known. Extra files (of File Output
    nodes) may have any size. A picture that cannot be checked is a warning. A picture of one colour is judged
    beside its neighbours, by the farm (core/frame_colour.py).
    """
    warnings: list[NodeWarning] = []
    colour = None
    for file in pictures_to_check(files):
        decoded = decode(file)
        if isinstance(decoded, Undecodable):
            facts = {"path": file.path, "what": decoded.message}
            if decoded.cause in CAUSES and not CAUSES[decoded.cause].warning:
                return FrameCheck((), decoded.cause, explain(decoded.cause, facts))
            warnings.append(_warning("decoder_died" if decoded.cause not in CAUSES else decoded.cause, facts))
            continue
        if file.kind != "frame":
            continue
        if width and height and (decoded.width, decoded.height) != (width, height):
            actual, asked = f"{decoded.width}×{decoded.height}", f"{width}×{height}"
            return _failed("wrong_resolution", path=file.path, **{"is": actual, "asked": asked})
        if decoded.all_nan:
            return _failed("all_nan", path=file.path)
        colour = colour or FrameColour(colour=None if decoded.colour is None else list(decoded.colour))
    return FrameCheck(tuple(warnings), colour=colour)


def _warning(code: str, facts: dict[str, str]) -> NodeWarning:
    return NodeWarning(code=code, message=explain(code, facts), subject=facts["path"])


def _failed(cause: str, **facts: str) -> FrameCheck:
    return FrameCheck((), cause, explain(cause, facts))
