"""The frame grammar and sets of frames, kept as runs: a job of a million frames is one line of text.

Grammar (docs/artist.md): items separated by commas and/or blanks, each `a`, `a-b` or `a-bxS`; or one pick
alone: `fml:N`, `auto:N`. The rules are Conductor's (PyPI `cioseq`), made strict.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from math import gcd
from typing import Literal, NamedTuple

MAX_SPEC_BYTES = 65_536
MAX_RUNS = 10_000
MAX_FRAMES = 1_000_000
MAX_SCOUTS = 10_000
FIRST_FRAME, LAST_FRAME = -1_048_574, 1_048_574
"""What Blender can number."""

MAX_ITEM = 64
"""Characters of one item: enough for any that is within the limits, leading zeros apart."""

_ITEM = re.compile(r"(-?[0-9]+)(?:-(-?[0-9]+)(?:x([0-9]+))?)?\Z")
_PICK = re.compile(rf"[ \t]*(fml|auto):([0-9]{{1,{MAX_ITEM}}})[ \t]*\Z")
_STRETCH = re.compile(rb"\x01+")
_SEPARATED = re.compile(r"[^, \t]+|,")


class FrameSpecError(ValueError):
    """A frame spec that is not one. `position` counts characters from 0; None: the spec as a whole."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message if position is None else f"{message} (at character {position + 1})")
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
    """Sorted, unique frames, immutable. Each set is kept in one way only: as the runs that a greedy reader
    from the left would make. They do not interleave, so positions are found by bisection.

    >>> FrameSet.from_text("1-7x3,9").to_text(), len(FrameSet.from_text("1-7x3,9"))
    ('1-7x3,9', 4)
    """

    __slots__ = ("_firsts", "_starts", "runs")

    runs: tuple[Run, ...]

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._keep(_greedy(_untangle([_run(*r) for r in runs])))

    def _keep(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        self._firsts = [r.first for r in self.runs]
        self._starts = [0, *accumulate(r.size for r in self.runs)]

    @classmethod
    def of(cls, frames: Iterable[int]) -> FrameSet:
        """From single frames, in any order."""
        return cls._ordered(Run(f, f, 1) for f in sorted(set(frames)))

    @classmethod
    def _ordered(cls, runs: Iterable[Run]) -> FrameSet:
        """From runs that follow one another."""
        made = cls.__new__(cls)
        made._keep(_greedy(runs))
        return made

    @classmethod
    def from_text(cls, text: str) -> FrameSet:
        """The inverse of `to_text`. Raises FrameSpecError."""
        runs = [_parse_item(item, 0) for item in text.split(",")] if text else []
        in_order = all(one.last < other.first for one, other in pairwise(runs))
        return cls._ordered(runs) if in_order else cls(runs)

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
        return self.runs == other.runs if isinstance(other, FrameSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.runs)

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
        """Frames at positions `start` up to, not with, `stop`; positions count from 0."""
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
        """Costs the runs of both."""
        return FrameSet._ordered(_shared(self.runs, other.runs))

    def difference(self, other: FrameSet) -> FrameSet:
        """Frames of this set that are not in `other`; costs the runs of both and of the result."""
        return FrameSet._ordered(_without(self.runs, other.runs)) if other.runs else self

    def _find(self, frame: int) -> int | None:
        index = bisect_right(self._firsts, frame) - 1
        return index if index >= 0 and self.runs[index].has(frame) else None


def _greedy(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs that follow one another, told anew: each as long as it gets, from the left. Two frames with a
    gap are told one by one, since the second may begin a longer run."""
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
            if size > 1 and step == run.step:  # the rest of `run` goes on like this
                size += (run.last - last) // step
                last = run.last
                break
    if size == 2 and step > 1:
        yield Run(first, first, 1)
        first = last
    if size:
        yield _run(first, last, step or 1)


def _untangle(runs: Iterable[Run]) -> Iterator[Run]:
    """The frames of any runs as runs that follow one another."""
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
    """Runs whose spans overlap, through a map of their span: a byte a frame."""
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
    """Runs of one step and one remainder joined where they meet: so many items that repeat each other
    cost no more than one that says it all."""
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
    """The frames in both: again a run, by the Chinese remainder theorem."""
    shared = gcd(a.step, b.step)
    apart, odd = divmod(b.first - a.first, shared)
    if odd:
        return None
    turns = b.step // shared
    meet = a.first + a.step * (apart * pow(a.step // shared, -1, turns) % turns)
    step = a.step * turns
    low, high = max(a.first, b.first), min(a.last, b.last)
    first = low + (meet - low) % step
    return _run(first, high, step) if first <= high else None


def _shared(mine: Sequence[Run], other: Sequence[Run]) -> Iterator[Run]:
    i = j = 0
    while i < len(mine) and j < len(other):
        if common := _common(mine[i], other[j]):
            yield common
        if mine[i].last <= other[j].last:
            i += 1
        else:
            j += 1


def _without(mine: Sequence[Run], other: Sequence[Run]) -> Iterator[Run]:
    begin = 0
    for run in mine:
        at, step = run.first, run.step
        while begin < len(other) and other[begin].last < run.first:
            begin += 1
        index = begin
        while index < len(other) and other[index].first <= run.last:
            hole = _common(run, other[index])
            index += 1
            if hole is None:
                continue
            whole = hole.step == step
            for frame in (hole.first,) if whole else range(hole.first, hole.last + 1, hole.step):
                if at < frame:
                    yield _run(at, frame - step, step)
                at = frame + step
            if whole:
                at = hole.last + step
        if at <= run.last:
            yield _run(at, run.last, step)


def _parse_item(item: str, position: int) -> Run:
    found = _ITEM.match(item) if len(item) <= MAX_ITEM else None
    if found is None:
        raise FrameSpecError(f"{item[:40]!r} {_why_not(item)}", position)
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    step = 1 if found[3] is None else int(found[3])
    if step == 0:
        raise FrameSpecError(f"{item!r} has step 0; a step is at least 1", position)
    for frame in (first, last):
        if not FIRST_FRAME <= frame <= LAST_FRAME:
            raise FrameSpecError(f"frame {frame} is not within {FIRST_FRAME} to {LAST_FRAME}", position)
    return _run(first, last, step)


def _why_not(item: str) -> str:
    if item.startswith(("fml", "auto")):
        return "is not fml:N or auto:N alone, with N of at least 1"
    if len(item) > MAX_ITEM:
        return "and so on is too long for a frame, a-b or a-bxS"
    if ":" in item:
        return "has a colon; a step is written a-bxS"
    return "is not a frame, a-b or a-bxS"


@dataclass(frozen=True, slots=True)
class Pick:
    """`fml:N` (first, middle, last) or `auto:N` (the middles of N equal parts) of some frames."""

    kind: Literal["fml", "auto"]
    count: int

    def of(self, frames: FrameSet) -> FrameSet:
        """The frames it picks. Raises FrameSpecError if they are more than a job may have."""
        n, wanted = len(frames), self.count
        if wanted >= n:
            return _limited(frames.runs)
        if self.kind == "auto":
            positions: Iterable[int] = (n * (2 * i + 1) // (2 * wanted) for i in range(wanted))
        elif wanted == 1:
            positions = (0,)
        else:
            stride = n // (wanted - 1)
            positions = chain((i * stride for i in range(wanted - 1)), (n - 1,))
        picked = map(frames.nth, positions)
        return _limited(Run(f, f, 1) for f in picked)


def _limited(runs: Iterable[Run]) -> FrameSet:
    """Runs that follow one another as a set within the limits. Raises FrameSpecError."""
    told = tuple(islice(_greedy(runs), MAX_RUNS + 1))
    if len(told) > MAX_RUNS:
        raise FrameSpecError(f"these frames make more than {MAX_RUNS} separate runs")
    frames = FrameSet._ordered(told)
    if len(frames) > MAX_FRAMES:
        raise FrameSpecError(f"{len(frames)} frames; at most {MAX_FRAMES} are allowed")
    return frames


def parse(spec: str) -> FrameSet | Pick:
    """Read a spec. Raises FrameSpecError, which says where."""
    if len(spec.encode("utf-8", "surrogatepass")) > MAX_SPEC_BYTES:
        raise FrameSpecError(f"longer than {MAX_SPEC_BYTES} bytes")
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
    return _limited(_untangle(runs))


def resolve_scouts(spec: str, frames: FrameSet) -> FrameSet:
    """The scouts among `frames`; an empty spec is none. Raises FrameSpecError, also for no overlap."""
    if spec == "":
        return FrameSet()
    parsed = parse(spec)
    if isinstance(parsed, Pick):
        _few_enough(min(parsed.count, len(frames)))
        scouts = parsed.of(frames)
    else:
        scouts = parsed.intersection(frames)
    if not len(scouts):
        raise FrameSpecError("none of these is among the job's frames")
    _few_enough(len(scouts))
    return scouts


def _few_enough(scouts: int) -> None:
    if scouts > MAX_SCOUTS:
        raise FrameSpecError(f"{scouts} scouts; at most {MAX_SCOUTS} are allowed")


class TaskPlan:
    """A job's tasks, computed: each scout alone, numbered first, then the rest in chunks.

    `scouts` are some of `frames` (`resolve_scouts`); `chunk_size` is at least 1.
    """

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
