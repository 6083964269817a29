"""The frame grammar, held against plain sets and against Conductor's own implementation."""

from __future__ import annotations

import pytest
from cioseq.sequence import Sequence
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.frames import (
    FrameSet,
    FrameSpecError,
    Pick,
    TaskPlan,
    blender_number,
    parse,
    resolve_scouts,
)

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


@given(specs, specs)
def test_difference_and_intersection_are_those_of_sets(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    a, b = frames(text_of(one)), frames(text_of(other))
    assert list(a.difference(b)) == sorted(set(plain(one)) - set(plain(other)))
    assert list(a.intersection(b)) == sorted(set(plain(one)) & set(plain(other)))


@given(specs, st.integers(0, 9), st.integers(1, 9))
def test_tasks_hold_every_frame_once_scouts_first(
    spec: list[tuple[int, int, int]], scouts: int, chunk: int
) -> None:
    all_frames = frames(text_of(spec))
    chosen = resolve_scouts(f"fml:{scouts}" if scouts else "", all_frames)
    plan = TaskPlan(all_frames, chosen, chunk)
    tasks = [plan.frames_of(n) for n in range(plan.task_count)]
    assert sorted(f for t in tasks for f in t) == list(all_frames)
    assert tasks[: plan.scout_count] == [[f] for f in chosen]
    assert all(len(t) == chunk for t in tasks[plan.scout_count : -1])
    assert all(f in plan.frames_of(plan.task_of(f)) for f in all_frames)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("10-1x3", [1, 4, 7, 10]),
        ("-10--2x2", [-10, -8, -6, -4, -2]),
        ("5 1,3", [1, 3, 5]),
        ("1-20x3", [1, 4, 7, 10, 13, 16, 19]),
        ("1-5,3-7", [1, 2, 3, 4, 5, 6, 7]),
        ("7", [7]),
    ],
)
def test_examples_of_the_grammar(spec: str, expected: list[int]) -> None:
    assert list(frames(spec)) == expected


@pytest.mark.parametrize(
    ("pick", "expected"),
    [
        ("fml:1", [1]),
        ("fml:2", [1, 100]),
        ("fml:3", [1, 51, 100]),
        ("fml:5", [1, 26, 51, 76, 100]),
        ("auto:3", [17, 51, 84]),
    ],
)
def test_examples_of_picks_from_1_to_100(pick: str, expected: list[int]) -> None:
    parsed = parse(pick)
    assert isinstance(parsed, Pick)
    assert list(parsed.of(frames("1-100"))) == expected


@pytest.mark.parametrize(
    ("spec", "position"),
    [
        ("", 0),
        ("1,,2", 2),
        ("1,", 2),
        ("1-5x0", 0),
        ("1-5:2", 0),
        ("3,a", 2),
        ("fml:0", 4),
        ("fml:3,7", 0),
        ("1-2-3", 0),
        ("1048575", 0),
        ("١", 0),
        ("1\x00", 0),
    ],
)
def test_what_is_not_a_spec_says_where(spec: str, position: int) -> None:
    with pytest.raises(FrameSpecError) as refused:
        parse(spec)
    assert refused.value.position == position


@pytest.mark.parametrize("spec", ["1-1000001", ",".join(["-1048574-1048574"] * 3000), "1 " * 10_001])
def test_too_much_is_refused(spec: str) -> None:
    with pytest.raises(FrameSpecError):
        parse(spec)


def test_scouts_outside_the_job_are_an_error_and_not_no_scouts() -> None:
    with pytest.raises(FrameSpecError):
        resolve_scouts("20", frames("1-10"))


@given(specs)
def test_conductors_own_implementation_agrees(spec: list[tuple[int, int, int]]) -> None:
    positive = [(abs(a), abs(b), s) for a, b, s in spec]
    ordered = [(min(a, b), max(a, b), s) for a, b, s in positive]
    assert list(Sequence.create(text_of(ordered))) == list(frames(text_of(ordered)))


@given(st.integers(1, 300), st.integers(2, 12))
def test_conductors_fml_agrees(last: int, count: int) -> None:
    ours = Pick("fml", count).of(frames(f"1-{last}"))
    assert sorted(Sequence.create(1, last, 1).calc_fml(count)) == list(ours)


def test_numbers_in_names_are_as_blender_writes_them() -> None:
    assert [blender_number(f) for f in (7, -3, 12345)] == ["0007", "-0003", "12345"]
