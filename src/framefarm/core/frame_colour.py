"""Single-coloured frames that differ from their neighbours: likely mistakes, such as a hidden collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_DIFFERENCE = 0.1
"""Difference in one channel from which two colours count as different. Fades change in smaller steps."""


@dataclass(frozen=True)
class FrameColour:
    """Colour shared by all pixels of a frame, one number for each channel; None if they differ."""

    colour: tuple[float, ...] | None = None

    def to_text(self) -> str:
        """Text form for the database; empty for None."""
        return "" if self.colour is None else " ".join(f"{v:g}" for v in self.colour)

    @classmethod
    def from_text(cls, text: str) -> FrameColour:
        """Inverse of `to_text`. Raises ValueError."""
        return cls(tuple(map(float, text.split())) or None)


def is_outlier(frame: FrameColour | None, neighbours: Sequence[FrameColour | None]) -> bool:
    """Whether a single-coloured frame differs from at least one neighbour; an unknown neighbour is None.

    One differing neighbour is enough: both ends of a run of black frames are outliers.
    """
    if frame is None or frame.colour is None:
        return False
    return any(n is not None and _differ(frame.colour, n.colour) for n in neighbours)


def _differ(one: tuple[float, ...], other: tuple[float, ...] | None) -> bool:
    if other is None or len(one) != len(other):
        return True
    return any(abs(a - b) >= MIN_DIFFERENCE for a, b in zip(one, other, strict=True))
