"""Runs of frames with a step, and arithmetic on sorted runs: canonical form, union, intersection, difference.

A set of a million frames takes as much memory and time as its few runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import gcd
from typing import NamedTuple

FIRST_FRAME, LAST_FRAME = -1_048_574, 1_048_574
"""Lowest and highest frame number of Blender."""
MAX_ITEM = 64
"""Characters of one item, leading zeros included."""

_ITEM = re.compile(r"(-?[0-9]+)(?:-(-?[0-9]+)(?:x([0-9]+))?)?\Z")
_STRETCH = re.compile(rb"\x01+")


class FrameSpecError(ValueError):
    """A malformed frame spec. `position` counts characters from 0; None: the spec as a whole."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message if position is None else f"{message} (at character {position + 1})")
        self.position = position


class Run(NamedTuple):
    """Frames `first`, `first + step`, … `last`. `last` is one of them; a single frame has step 1."""

    first: int
    last: int
    step: int

    @property
    def size(self) -> int:
        return (self.last - self.first) // self.step + 1

    def has(self, frame: int) -> bool:
        return self.first <= frame <= self.last and (frame - self.first) % self.step == 0

    def text(self) -> str:
        if self.first == self.last:
            return str(self.first)
        return f"{self.first}-{self.last}" + (f"x{self.step}" if self.step > 1 else "")


def make_run(first: int, last: int, step: int) -> Run:
    """A run from ends in either order; its last frame is moved onto a step."""
    if first > last:
        first, last = last, first
    last -= (last - first) % step
    return Run(first, last, 1 if first == last else step)


def canonical(runs: Iterable[Run]) -> Iterator[Run]:
    """Sorted, disjoint runs in canonical form: from the left, each as long as possible. Two frames with a gap
    become two runs, since the second may begin a longer run."""
    first = last = step = size = 0
    for run in runs:
        for frame in range(run.first, run.last + 1, run.step):
            if size == 0:
                first = last = frame
                size = 1
            elif size == 1:
                step, last, size = frame - last, frame, 2
            elif frame - last == step:
                last, size = frame, size + 1
            elif size == 2 and step > 1:
                yield Run(first, first, 1)
                first, last, step = last, frame, frame - last
            else:
                yield Run(first, last, step)
                first = last = frame
                size = 1
            if size > 1 and step == run.step:  # the rest of `run` continues this one
                size += (run.last - last) // step
                last = run.last
                break
    if size == 2 and step > 1:
        yield Run(first, first, 1)
        first = last
    if size:
        yield make_run(first, last, step or 1)


def union(runs: Iterable[Run]) -> Iterator[Run]:
    """The frames of any runs as sorted, disjoint runs."""
    cluster: list[Run] = []
    high = 0
    for run in sorted(runs):
        if cluster and run.first > high:
            yield from _merge(cluster)
            cluster = []
        high = max(high, run.last) if cluster else run.last
        cluster.append(run)
    yield from _merge(cluster)


def _merge(cluster: list[Run]) -> Iterator[Run]:
    """Union of runs whose spans overlap. Uses one byte for each frame of their common span."""
    lanes = _lanes(cluster)
    if len(lanes) < 2:
        yield from lanes
        return
    low = min(r.first for r in lanes)
    present = bytearray(max(r.last for r in lanes) - low + 1)
    for first, last, step in lanes:
        present[first - low : last - low + 1 : step] = b"\x01" * ((last - first) // step + 1)
    for stretch in _STRETCH.finditer(present):
        yield Run(low + stretch.start(), low + stretch.end() - 1, 1)


def _lanes(cluster: list[Run]) -> list[Run]:
    """Join runs of equal step and remainder where they touch: repeated items cost no more than one."""
    lanes: list[Run] = []
    for run in sorted(cluster, key=lambda r: (r.step, r.first % r.step, r.first)):
        before = lanes[-1] if lanes else None
        same = before and before.step == run.step and (run.first - before.first) % run.step == 0
        if before and same and run.first <= before.last + run.step:
            lanes[-1] = Run(before.first, max(before.last, run.last), run.step)
        else:
            lanes.append(run)
    return lanes


def _common(a: Run, b: Run) -> Run | None:
    """The frames in both runs, which are a run again (Chinese remainder theorem)."""
    shared = gcd(a.step, b.step)
    apart, odd = divmod(b.first - a.first, shared)
    if odd:
        return None
    turns = b.step // shared
    meet = a.first + a.step * (apart * pow(a.step // shared, -1, turns) % turns)
    step = a.step * turns
    low, high = max(a.first, b.first), min(a.last, b.last)
    first = low + (meet - low) % step
    return make_run(first, high, step) if first <= high else None


def intersect(left: Sequence[Run], right: Sequence[Run]) -> Iterator[Run]:
    """Frames in both sequences of sorted, disjoint runs."""
    i = j = 0
    while i < len(left) and j < len(right):
        if common := _common(left[i], right[j]):
            yield common
        if left[i].last <= right[j].last:
            i += 1
        else:
            j += 1


def subtract(left: Sequence[Run], right: Sequence[Run]) -> Iterator[Run]:
    """Frames of `left` that are not in `right`, both sorted, disjoint runs."""
    start = 0
    for run in left:
        at, step = run.first, run.step
        while start < len(right) and right[start].last < run.first:
            start += 1
        index = start
        while index < len(right) and right[index].first <= run.last:
            common = _common(run, right[index])
            index += 1
            if common is None:
                continue
            wcommon = common.step == step
            for frame in (common.first,) if wcommon else range(common.first, common.last + 1, common.step):
                if at < frame:
                    yield make_run(at, frame - step, step)
                at = frame + step
            if wcommon:
                at = common.last + step
        if at <= run.last:
            yield make_run(at, run.last, step)


def parse_item(item: str, position: int) -> Run:
    """Parse one item: `a`, `a-b` or `a-bxS`. Raises FrameSpecError at `position`, the item's start in the
    spec."""
    match = _ITEM.match(item) if len(item) <= MAX_ITEM else None
    if match is None:
        raise FrameSpecError(f"{item[:40]!r} {_why_not(item)}", position)
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    step = 1 if match[3] is None else int(match[3])
    if step == 0:
        raise FrameSpecError(f"{item!r} has step 0; a step is at least 1", position)
    for frame in (first, last):
        if not FIRST_FRAME <= frame <= LAST_FRAME:
            raise FrameSpecError(f"frame {frame} is not within {FIRST_FRAME} to {LAST_FRAME}", position)
    return make_run(first, last, step)


def _why_not(item: str) -> str:
    if item.startswith(("fml", "auto")):
        return "is not fml:N or auto:N alone, with N of at least 1"
    if len(item) > MAX_ITEM:
        return f"begins an item longer than {MAX_ITEM} characters; an item is a frame, a-b or a-bxS"
    if ":" in item:
        return "has a colon; a step is written a-bxS"
    return "is not a frame, a-b or a-bxS"
