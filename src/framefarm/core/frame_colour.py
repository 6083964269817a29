"""Does a frame look like a mistake? Judged beside the frames before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SAME = 0.1
"""Two pictures of one colour each that differ by less in each channel are alike: fades go in small steps."""


@dataclass(frozen=True)
class FrameColour:
    """What a frame is like: `colour` is that of all its pixels; None: it has several."""

    colour: tuple[float, ...] | None = None

    def to_text(self) -> str:
        """Short and stable, for storing."""
        return "" if self.colour is None else " ".join(f"{v:g}" for v in self.colour)

    @classmethod
    def from_text(cls, text: str) -> FrameColour:
        """The opposite of `to_text`. Raises ValueError."""
        return cls(tuple(map(float, text.split())) or None)


def is_outlier(look: FrameColour | None, neighbours: Sequence[FrameColour | None]) -> bool:
    """Whether a frame of one colour is beside one that is not like it. None: not known, which tells nothing.

    One neighbour is enough: of a run of black frames both ends stand out, wherever it lies.
    """
    if look is None or look.colour is None:
        return False
    return any(n is not None and _differ(look.colour, n.colour) for n in neighbours)


def _differ(one: tuple[float, ...], other: tuple[float, ...] | None) -> bool:
    if other is None or len(one) != len(other):
        return True
    return any(abs(a - b) >= SAME for a, b in zip(one, other, strict=True))
