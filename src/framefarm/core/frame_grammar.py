"""The frame grammar: the text in which artists name frames and scouts, and its limits.

Items separated by commas and/or blanks, each `a`, `a-b` or `a-bxS`; or one pick alone: `fml:N`, `auto:N`; or
`current`, the frame that the scene was saved at. Described in docs/artist.md. The rules are Conductor's (PyPI
package `cioseq`), made strict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

from framefarm.core.frame_runs import MAX_ITEM, FrameSpecError, Run, canonical, parse_item, union
from framefarm.core.frames import FrameSet

MAX_SPEC_BYTES = 65_536
MAX_RUNS = 10_000
MAX_FRAMES = 1_000_000
MAX_SCOUTS = 10_000
CURRENT: Literal["current"] = "current"
"""The spec of the frame that the scene was saved at."""

_PICK = re.compile(rf"[ \t]*(fml|auto):([0-9]{{1,{MAX_ITEM}}})[ \t]*\Z")
_SEPARATED = re.compile(r"[^, \t]+|,")


@dataclass(frozen=True, slots=True)
class Pick:
    """`fml:N` (first, last, and evenly between) or `auto:N` (the middles of N equal parts) of a set of
    frames; or `current`, one frame that the set does not tell."""

    kind: Literal["fml", "auto", "current"]
    count: int

    def of(self, frames: FrameSet) -> FrameSet:
        """Frames picked from `frames`. Raises FrameSpecError if they exceed the limits of a job, or for
        `current`."""
        if self.kind == "current":
            raise FrameSpecError("current is a frame of the scene, and no pick of these frames")
        size, count = len(frames), self.count
        if count >= size:
            return _limited(frames.runs)
        if self.kind == "auto":
            positions: Iterable[int] = (size * (2 * i + 1) // (2 * count) for i in range(count))
        elif count == 1:
            positions = (0,)
        else:
            stride = size // (count - 1)
            positions = chain((i * stride for i in range(count - 1)), (size - 1,))
        picked = map(frames.nth, positions)
        return _limited(Run(f, f, 1) for f in picked)


def _limited(runs: Iterable[Run]) -> FrameSet:
    """Set of sorted, disjoint runs, checked against the limits. Raises FrameSpecError."""
    kept = tuple(islice(canonical(runs), MAX_RUNS + 1))
    if len(kept) > MAX_RUNS:
        raise FrameSpecError(f"these frames make more than {MAX_RUNS} separate runs")
    frames = FrameSet.of_sorted(kept)
    if len(frames) > MAX_FRAMES:
        raise FrameSpecError(f"{len(frames)} frames; at most {MAX_FRAMES} are allowed")
    return frames


def parse(spec: str) -> FrameSet | Pick:
    """Parse a frame spec. Raises FrameSpecError with the position of the fault."""
    if len(spec.encode("utf-8", "surrogatepass")) > MAX_SPEC_BYTES:
        raise FrameSpecError(f"longer than {MAX_SPEC_BYTES} bytes")
    if spec.strip(" \t") == CURRENT:
        return Pick(CURRENT, 1)
    if pick := _PICK.match(spec):
        if int(pick[2]) < 1:
            raise FrameSpecError(f"{pick[1]}:N needs N of at least 1", pick.start(2))
        return Pick("fml" if pick[1] == "fml" else "auto", int(pick[2]))
    runs: list[Run] = []
    comma = True
    end = 0
    for token in _SEPARATED.finditer(spec):
        end = token.end()
        if token[0] == ",":
            if comma:
                raise FrameSpecError("an empty item", token.start())
            comma = True
            continue
        if len(runs) == MAX_RUNS:
            raise FrameSpecError(f"more than {MAX_RUNS} items", token.start())
        runs.append(parse_item(token[0], token.start()))
        comma = False
    if comma:
        raise FrameSpecError("an empty item" if runs else "no frames", end)
    biggest = max(runs, key=lambda r: r.size)
    if biggest.size > MAX_FRAMES:
        raise FrameSpecError(f"{biggest.size} frames; at most {MAX_FRAMES} are allowed")
    return _limited(union(runs))


def parse_frames(spec: str) -> FrameSet | Pick:
    """Parse frames that are named among others, as scouts are. Raises FrameSpecError, also for `current`."""
    parsed = parse(spec)
    if isinstance(parsed, Pick) and parsed.kind == CURRENT:
        raise FrameSpecError("current is for the frames of a whole job")
    return parsed


def resolve_scouts(spec: str, frames: FrameSet) -> FrameSet:
    """Scouts that `spec` names among `frames`; an empty spec names none.

    Raises FrameSpecError, also if none of the named frames is among `frames`.
    """
    if spec == "":
        return FrameSet()
    parsed = parse_frames(spec)
    if isinstance(parsed, Pick):
        _check_scout_limit(min(parsed.count, len(frames)))
        scouts = parsed.of(frames)
    else:
        scouts = parsed.intersection(frames)
    if not len(scouts):
        raise FrameSpecError("none of these is among the job's frames")
    _check_scout_limit(len(scouts))
    return scouts


def _check_scout_limit(scouts: int) -> None:
    if scouts > MAX_SCOUTS:
        raise FrameSpecError(f"{scouts} scouts; at most {MAX_SCOUTS} are allowed")


__all__ = ["CURRENT", "FrameSpecError", "Pick", "parse", "parse_frames", "resolve_scouts"]
