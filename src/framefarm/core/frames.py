"""Sets of frames, kept as runs: a job of a million frames is one line of text.

The text that artists write is parsed in `frame_grammar.py`; a job's tasks are computed in `task_plan.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

from framefarm.core.frame_runs import Run, canonical, intersect, make_run, parse_item, subtract, union


class FrameSet:
    """Sorted, unique frames, immutable. Equal sets have equal runs (`frame_runs.canonical`), which do not
    interleave; positions are found by bisection.

    >>> FrameSet.from_text("1-7x3,9").to_text(), len(FrameSet.from_text("1-7x3,9"))
    ('1-7x3,9', 4)
    """

    __slots__ = ("_firsts", "_starts", "runs")

    runs: tuple[Run, ...]

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._keep(canonical(union([make_run(*r) for r in runs])))

    def _keep(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        self._firsts = [r.first for r in self.runs]
        self._starts = [0, *accumulate(r.size for r in self.runs)]

    @classmethod
    def of(cls, frames: Iterable[int]) -> FrameSet:
        """Set of single frames, given in any order."""
        return cls.of_sorted(Run(f, f, 1) for f in sorted(set(frames)))

    @classmethod
    def of_sorted(cls, runs: Iterable[Run]) -> FrameSet:
        """Set of runs that are sorted and disjoint already."""
        made = cls.__new__(cls)
        made._keep(canonical(runs))
        return made

    @classmethod
    def from_text(cls, text: str) -> FrameSet:
        """Inverse of `to_text`. Raises FrameSpecError."""
        runs = [parse_item(item, 0) for item in text.split(",")] if text else []
        in_order = all(run.last < following.first for run, following in pairwise(runs))
        return cls.of_sorted(runs) if in_order else cls(runs)

    def to_text(self) -> str:
        """The runs as text, separated by commas: `1-7x3,9`."""
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
        """Frame at `position`, counted from 0. Raises IndexError."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        index = bisect_right(self._starts, position) - 1
        run = self.runs[index]
        return run.first + (position - self._starts[index]) * run.step

    def position_of(self, frame: int) -> int:
        """Inverse of `nth`. Raises ValueError if `frame` is not in the set."""
        index = self._find(frame)
        if index is None:
            raise ValueError(f"{frame} is not among the frames")
        run = self.runs[index]
        return self._starts[index] + (frame - run.first) // run.step

    def slice(self, start: int, stop: int) -> list[int]:
        """Frames at positions `start` to `stop` - 1, counted from 0."""
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
        """Frames in both sets. Time grows with the number of runs of both."""
        return FrameSet.of_sorted(intersect(self.runs, other.runs))

    def difference(self, other: FrameSet) -> FrameSet:
        """Frames of this set that are not in `other`. Time grows with the runs of both and of the result."""
        return FrameSet.of_sorted(subtract(self.runs, other.runs)) if other.runs else self

    def _find(self, frame: int) -> int | None:
        index = bisect_right(self._firsts, frame) - 1
        return index if index >= 0 and self.runs[index].has(frame) else None
