"""The frame grammar and sets of frames, kept as runs: a job of a million frames is one line of text.

Grammar (docs/artist.md): items separated by commas and/or blanks, each `a`, `a-b` or `a-bxS`; or one pick
alone: `fml:N`, `auto:N`. The rules are Conductor's (PyPI `cioseq`), made strict.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

MAX_SPEC_BYTES = 65_536
MAX_RUNS = 10_000
MAX_FRAMES = 1_000_000
MAX_SCOUTS = 10_000
FIRST_FRAME, LAST_FRAME = -1_048_574, 1_048_574
"""What Blender can number."""

_ITEM = re.compile(r"(-?[0-9]{1,9})(?:-(-?[0-9]{1,9})(?:x([0-9]{1,9}))?)?\Z")
_PICK = re.compile(r"[ \t]*(fml|auto):([0-9]{1,9})[ \t]*\Z")
_SEPARATED = re.compile(r"[^, \t]+|,")


class FrameSpecError(ValueError):
    """A frame spec that is not one. `position` counts characters from 0."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(f"{message} (at character {position + 1})")
        self.position = position


class Run(NamedTuple):
    """Frames `first`, `first + step`, … `last`; `last` is one of them, a single frame has step 1."""

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


def _run(first: int, last: int, step: int) -> Run:
    if first > last:
        first, last = last, first
    last -= (last - first) % step
    return Run(first, last, 1 if first == last else step)


class FrameSet:
    """Sorted, unique frames. The runs do not interleave, so positions are found by bisection.

    >>> FrameSet.from_text("1-7x3,9").to_text(), len(FrameSet.from_text("1-7x3,9"))
    ('1-7x3,9', 4)
    """

    __slots__ = ("_firsts", "_starts", "runs")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self.runs = _untangle([_run(*r) for r in runs])
        self._firsts = [r.first for r in self.runs]
        self._starts = [0, *accumulate(r.size for r in self.runs)]

    @classmethod
    def of(cls, frames: Iterable[int]) -> FrameSet:
        """From single frames, in any order."""
        return cls._ordered(_gather(sorted(set(frames))))

    @classmethod
    def _ordered(cls, runs: list[Run]) -> FrameSet:
        made = cls()
        made.runs = runs
        made._firsts = [r.first for r in runs]
        made._starts = [0, *accumulate(r.size for r in runs)]
        return made

    @classmethod
    def from_text(cls, text: str) -> FrameSet:
        """The inverse of `to_text`."""
        return cls._ordered([_parse_item(item, 0) for item in text.split(",")] if text else [])

    def to_text(self) -> str:
        return ",".join(run.text() for run in self.runs)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[int]:
        for run in self.runs:
            yield from range(run.first, run.last + 1, run.step)

    def __contains__(self, frame: object) -> bool:
        return isinstance(frame, int) and self._find(frame) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrameSet):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"FrameSet({self.to_text()!r})"

    def nth(self, position: int) -> int:
        """The frame at `position` from 0. Raises IndexError."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        index = bisect_right(self._starts, position) - 1
        run = self.runs[index]
        return run.first + (position - self._starts[index]) * run.step

    def position_of(self, frame: int) -> int:
        """The inverse of `nth`. Raises ValueError."""
        index = self._find(frame)
        if index is None:
            raise ValueError(f"{frame} is not among the frames")
        run = self.runs[index]
        return self._starts[index] + (frame - run.first) // run.step

    def slice(self, start: int, stop: int) -> list[int]:
        """Frames at positions `start` to `stop`, as a list slice would give."""
        start, stop = max(0, start), min(stop, len(self))
        result: list[int] = []
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            run, base = self.runs[index], self._starts[index]
            end = min(stop, self._starts[index + 1])
            result.extend(
                range(
                    run.first + (start - base) * run.step,
                    run.first + (end - base - 1) * run.step + 1,
                    run.step,
                )
            )
            start, index = end, index + 1
        return result

    def intersection(self, other: FrameSet) -> FrameSet:
        return FrameSet._ordered(_gather([f for f in self._near(other) if f in other]))

    def difference(self, other: FrameSet) -> FrameSet:
        """Frames of this set that are not in `other`; costs the runs, and the frames of runs that meet."""
        if not other.runs:
            return self
        result: list[Run] = []
        for run in self.runs:
            if run.step == 1:
                _cut(run, other, result)
            elif other._meets(run):
                result += _gather([f for f in range(run.first, run.last + 1, run.step) if f not in other])
            else:
                result.append(run)
        return FrameSet._ordered(result)

    def _near(self, other: FrameSet) -> Iterator[int]:
        for run in self.runs:
            if other._meets(run):
                yield from range(run.first, run.last + 1, run.step)

    def _meets(self, run: Run) -> bool:
        index = bisect_right(self._firsts, run.last) - 1
        return index >= 0 and self.runs[index].last >= run.first

    def _find(self, frame: int) -> int | None:
        index = bisect_right(self._firsts, frame) - 1
        return index if index >= 0 and self.runs[index].has(frame) else None


def _cut(run: Run, other: FrameSet, result: list[Run]) -> None:
    """`run` (step 1) without the frames of `other`, added to `result`."""
    at = run.first
    index = max(0, bisect_right(other._firsts, run.first) - 1)
    for hole in other.runs[index:]:
        if hole.first > run.last:
            break
        if hole.step == 1:
            if hole.first > at:
                result.append(_run(at, min(hole.first - 1, run.last), 1))
            at = max(at, hole.last + 1)
            continue
        for frame in range(hole.first, hole.last + 1, hole.step):
            if at <= frame <= run.last:
                if frame > at:
                    result.append(_run(at, frame - 1, 1))
                at = frame + 1
    if at <= run.last:
        result.append(_run(at, run.last, 1))


def _gather(frames: list[int]) -> list[Run]:
    """Sorted, unique frames as runs, greedily."""
    runs: list[Run] = []
    index, count = 0, len(frames)
    while index < count:
        end, step = index, 1
        if index + 1 < count:
            step = frames[index + 1] - frames[index]
            end = index + 1
            while end + 1 < count and frames[end + 1] - frames[end] == step:
                end += 1
        if step != 1 and end - index == 1:
            end, step = index, 1  # two frames with a gap are better told one by one
        runs.append(_run(frames[index], frames[end], step))
        index = end + 1
    return runs


def _untangle(runs: list[Run]) -> list[Run]:
    """Sorted runs that do not interleave; those that do are merged, or expanded where steps differ."""
    result: list[Run] = []
    cluster: list[Run] = []
    high = 0
    for run in sorted(runs):
        if cluster and run.first > high:
            result += _merge(cluster)
            cluster = []
        high = run.last if not cluster else max(high, run.last)
        cluster.append(run)
    return result + _merge(cluster)


def _merge(cluster: list[Run]) -> list[Run]:
    """One cluster of runs whose spans overlap."""
    if len(cluster) <= 1:
        return cluster
    low, high = cluster[0].first, max(r.last for r in cluster)
    if any(r.step == 1 and r.first == low and r.last == high for r in cluster):
        return [_run(low, high, 1)]
    present = bytearray(high - low + 1)
    for step, first, last in sorted({(r.step, r.first, r.last) for r in cluster}):
        count = (last - first) // step + 1
        present[first - low : last - low + 1 : step] = b"\x01" * count
    return _gather([low + i for i, here in enumerate(present) if here])


def _parse_item(item: str, position: int) -> Run:
    found = _ITEM.match(item)
    if found is None:
        raise FrameSpecError(f"{item[:40]!r} is not a frame, a-b or a-bxS", position)
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    step = 1 if found[3] is None else int(found[3])
    if step == 0:
        raise FrameSpecError(f"{item[:40]!r} has step 0; a step is at least 1", position)
    for frame in (first, last):
        if not FIRST_FRAME <= frame <= LAST_FRAME:
            raise FrameSpecError(f"frame {frame} is not within {FIRST_FRAME} to {LAST_FRAME}", position)
    return _run(first, last, step)


@dataclass(frozen=True, slots=True)
class Pick:
    """`fml:N` (first, middle, last) or `auto:N` (the middles of N equal parts) of some frames."""

    kind: Literal["fml", "auto"]
    count: int

    def of(self, frames: FrameSet) -> FrameSet:
        n, wanted = len(frames), self.count
        if wanted >= n:
            return frames
        if self.kind == "auto":
            positions: Iterable[int] = (n * (2 * i + 1) // (2 * wanted) for i in range(wanted))
        elif wanted == 1:
            positions = (0,)
        else:
            stride = n // (wanted - 1)
            positions = (0, *(i * stride for i in range(1, wanted - 1)), n - 1)
        return FrameSet.of(frames.nth(p) for p in positions)


def parse(spec: str) -> FrameSet | Pick:
    """Read a spec. Raises FrameSpecError, which says where."""
    if len(spec.encode("utf-8", "surrogatepass")) > MAX_SPEC_BYTES:
        raise FrameSpecError(f"longer than {MAX_SPEC_BYTES} bytes", MAX_SPEC_BYTES)
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
        runs.append(_parse_item(token[0], token.start()))
        comma = False
    if comma:
        raise FrameSpecError("an empty item" if runs else "no frames", end)
    biggest = max(runs, key=lambda r: r.size)
    if biggest.size > MAX_FRAMES:
        raise FrameSpecError(f"{biggest.size} frames; at most {MAX_FRAMES} are allowed")
    frames = FrameSet(runs)
    if len(frames) > MAX_FRAMES:
        raise FrameSpecError(f"{len(frames)} frames; at most {MAX_FRAMES} are allowed")
    if len(frames.runs) > MAX_RUNS:
        raise FrameSpecError(f"more than {MAX_RUNS} separate runs of frames")
    return frames


def resolve_scouts(spec: str, frames: FrameSet) -> FrameSet:
    """The scouts among `frames`; an empty spec is none. Raises FrameSpecError, also for no overlap."""
    if spec == "":
        return FrameSet()
    parsed = parse(spec)
    scouts = parsed.of(frames) if isinstance(parsed, Pick) else parsed.intersection(frames)
    if not len(scouts):
        raise FrameSpecError("none of these is among the job's frames")
    if len(scouts) > MAX_SCOUTS:
        raise FrameSpecError(f"{len(scouts)} scouts; at most {MAX_SCOUTS} are allowed")
    return scouts


class TaskPlan:
    """A job's tasks, computed: each scout alone, numbered first, then the rest in chunks."""

    def __init__(self, frames: FrameSet, scouts: FrameSet, chunk_size: int) -> None:
        self.scouts = scouts
        self.rest = frames.difference(scouts)
        self.chunk_size = chunk_size
        self.scout_count = len(scouts)
        self.task_count = self.scout_count + -(-len(self.rest) // chunk_size)

    @property
    def number_width(self) -> int:
        """Digits of a task's number: three, or as many as the last one needs."""
        return max(3, len(str(max(0, self.task_count - 1))))

    def frames_of(self, number: int) -> list[int]:
        """The frames of task `number`. Raises IndexError."""
        if not 0 <= number < self.task_count:
            raise IndexError(number)
        if number < self.scout_count:
            return [self.scouts.nth(number)]
        start = (number - self.scout_count) * self.chunk_size
        return self.rest.slice(start, start + self.chunk_size)

    def task_of(self, frame: int) -> int:
        """The number of the task that renders `frame`. Raises ValueError."""
        if frame in self.scouts:
            return self.scouts.position_of(frame)
        return self.scout_count + self.rest.position_of(frame) // self.chunk_size


def blender_number(frame: int) -> str:
    """A frame as Blender writes it in names: four digits or more after the sign.

    >>> blender_number(7), blender_number(-3), blender_number(12345)
    ('0007', '-0003', '12345')
    """
    return f"-{-frame:04d}" if frame < 0 else f"{frame:04d}"


__all__ = [
    "MAX_FRAMES", "MAX_RUNS", "MAX_SCOUTS", "MAX_SPEC_BYTES", "FrameSet", "FrameSpecError", "Pick", "Run",
    "TaskPlan", "blender_number", "parse", "resolve_scouts",
]  # fmt: skip
