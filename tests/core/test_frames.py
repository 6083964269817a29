"""Sets of frames, held against plain sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core import frame_runs
from framefarm.core.frame_grammar import parse
from framefarm.core.frame_runs import FrameSpecError, Run
from framefarm.core.frames import FrameSet

items = st.tuples(st.integers(-60, 60), st.integers(-60, 60), st.integers(1, 7))
specs = st.lists(items, min_size=1, max_size=6)


def text_of(spec: list[tuple[int, int, int]]) -> str:
    return ",".join(f"{a}-{b}x{s}" for a, b, s in spec)


def plain(spec: list[tuple[int, int, int]]) -> list[int]:
    return sorted({f for a, b, s in spec for f in range(min(a, b), max(a, b) + 1, s)})


def frames(spec: str) -> FrameSet:
    parsed = parse(spec)
    assert isinstance(parsed, FrameSet)
    return parsed


@given(specs)
def test_a_spec_is_the_sorted_set_of_its_items(spec: list[tuple[int, int, int]]) -> None:
    found, expected = frames(text_of(spec)), plain(spec)
    assert list(found) == expected
    assert len(found) == len(expected)
    assert list(FrameSet.from_text(found.to_text())) == expected
    assert [found.nth(i) for i in range(len(found))] == expected
    assert [found.position_of(f) for f in expected] == list(range(len(expected)))
    assert [f for f in range(-70, 70) if f in found] == expected
    assert found.slice(1, 5) == expected[1:5]


@given(specs)
def test_text_in_any_order_is_read_as_the_same_set(spec: list[tuple[int, int, int]]) -> None:
    assert FrameSet.from_text(text_of(spec)) == frames(text_of(spec))


def test_text_of_a_set_may_repeat_frames_and_come_unsorted() -> None:
    assert FrameSet.from_text("5,1-3,3,2-4x2").to_text() == "1-5"
    assert FrameSet.from_text("1,1").to_text() == "1"
    assert FrameSet.from_text("1-3,3-5").to_text() == "1-5"
    assert FrameSet.from_text("") == FrameSet()
    with pytest.raises(FrameSpecError) as refused:
        FrameSet.from_text("1,a")
    assert refused.value.position == 0


@given(specs, specs)
def test_sets_are_equal_only_with_the_same_frames(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    assert (frames(text_of(one)) == frames(text_of(other))) == (plain(one) == plain(other))
    assert (frames(text_of(one)) == plain(one)) is False


@given(specs, st.integers(-3, 60), st.integers(-3, 60))
def test_a_slice_is_that_of_the_list(spec: list[tuple[int, int, int]], start: int, stop: int) -> None:
    assert frames(text_of(spec)).slice(start, stop) == plain(spec)[max(0, start) : max(0, stop)]


def greedy(numbers: list[int]) -> list[Run]:
    """The canonical runs of sorted numbers, read from the left."""
    runs: list[Run] = []
    while numbers:
        length = min(2, len(numbers))
        step = numbers[1] - numbers[0] if length == 2 else 1
        while length < len(numbers) and numbers[length] - numbers[length - 1] == step:
            length += 1
        if length == 2 and step > 1:
            length, step = 1, 1
        runs.append(Run(numbers[0], numbers[length - 1], step))
        numbers = numbers[length:]
    return runs


@given(specs)
def test_runs_are_as_long_as_possible_from_the_left_and_pairs_with_a_gap_are_single_frames(
    spec: list[tuple[int, int, int]],
) -> None:
    expected = greedy(plain(spec))
    assert list(frames(text_of(spec)).runs) == expected
    assert list(FrameSet.of(plain(spec)).runs) == expected
    assert list(FrameSet(Run(*item) for item in spec).runs) == expected


TRILLION = 10**12


@pytest.mark.parametrize(
    ("runs", "canonical"),
    [
        ([Run(0, TRILLION, 2)], [Run(0, TRILLION, 2)]),
        ([Run(TRILLION, 0, 1), Run(-9, -5, 2)], [Run(-9, -5, 2), Run(0, TRILLION, 1)]),
        ([Run(0, TRILLION, 2), Run(TRILLION, TRILLION + 8, 2)], [Run(0, TRILLION + 8, 2)]),
        ([Run(0, TRILLION, 2), Run(TRILLION + 2, TRILLION + 8, 2)], [Run(0, TRILLION + 8, 2)]),
        ([Run(0, TRILLION, 2), Run(8, TRILLION + 8, 2)], [Run(0, TRILLION + 8, 2)]),
        ([Run(0, TRILLION, 2), Run(8, 88, 2), Run(8, 808, 2)], [Run(0, TRILLION, 2)]),
        ([Run(0, TRILLION, 1), Run(TRILLION + 1, 2 * TRILLION, 1)], [Run(0, 2 * TRILLION, 1)]),
    ],
)
def test_building_a_set_costs_its_runs_and_not_its_frames(runs: list[Run], canonical: list[Run]) -> None:
    found = FrameSet(runs)
    assert list(found.runs) == canonical
    assert len(found) == sum(run.size for run in canonical)
    assert found.position_of(canonical[-1].last) == len(found) - 1


def test_difference_and_intersection_cost_runs_and_not_frames() -> None:
    evens, thirds = FrameSet([Run(0, TRILLION, 2)]), FrameSet([Run(0, TRILLION, 3)])
    assert evens.intersection(thirds) == FrameSet([Run(0, TRILLION, 6)])
    assert evens.difference(FrameSet([Run(10, TRILLION - 10, 2)])).to_text() == (
        "0-8x2,999999999992-1000000000000x2"
    )
    assert evens.difference(FrameSet([Run(1, TRILLION, 2)])) == evens


def test_difference_and_intersection_pass_once_over_the_runs_of_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = 0
    common = frame_runs._common

    def counted(a: Run, b: Run) -> Run | None:
        nonlocal pairs
        pairs += 1
        return common(a, b)

    monkeypatch.setattr(frame_runs, "_common", counted)
    a = FrameSet.of(10 * n + k for n in range(300) for k in (0, 2))
    b = FrameSet.of(10 * n + k for n in range(300) for k in (0, 3))
    assert list(a.intersection(b)) == list(range(0, 3000, 10))
    assert pairs <= len(a.runs) + len(b.runs)
    pairs = 0
    assert list(a.difference(b)) == list(range(2, 3000, 10))
    assert pairs <= len(a.runs) + len(b.runs)


@given(specs, specs)
def test_difference_and_intersection_are_those_of_sets(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    a, b = frames(text_of(one)), frames(text_of(other))
    assert list(a.difference(b)) == sorted(set(plain(one)) - set(plain(other)))
    assert list(a.intersection(b)) == sorted(set(plain(one)) & set(plain(other)))


@given(specs)
def test_equal_sets_have_one_text_and_one_hash(spec: list[tuple[int, int, int]]) -> None:
    found, again = frames(text_of(spec)), FrameSet.of(plain(spec))
    assert found == again
    assert hash(found) == hash(again)
    assert found.to_text() == again.to_text()
    assert FrameSet.from_text(found.to_text()) == found
    assert all(one.last < other.first for one, other in pairwise(found.runs))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("1-3,4-6", "1-6"),
        ("1,2,3,5,7,9", "1-3,5-9x2"),
        ("1-99x2,2-100x2", "1-100"),
        ("7-7x9", "7"),
        ("-0", "0"),
        ("1-10x99", "1"),
        ("1,4,5,6", "1,4-6"),
        ("1,3,4,5", "1,3-5"),
        ("1,4", "1,4"),
        ("1,3", "1,3"),
        ("1,2", "1-2"),
        ("1,4,7", "1-7x3"),
        ("", ""),
    ],
)
def test_sets_are_written_as_few_runs(spec: str, text: str) -> None:
    assert (frames(spec) if spec else FrameSet()).to_text() == text


def test_positions_and_frames_that_are_not_there_are_errors() -> None:
    found = frames("1-9x2")
    for position in (-1, 5):
        with pytest.raises(IndexError):
            found.nth(position)
    for frame in (0, 2, 11):
        with pytest.raises(ValueError):
            found.position_of(frame)
    assert found.slice(3, 99) == [7, 9]
    assert found.slice(-2, 2) == [1, 3]
    assert "1" not in found and None not in found
    assert repr(found) == "FrameSet('1-9x2')"
    assert found.slice(5, 9) == []
    assert FrameSet().slice(0, 3) == []
