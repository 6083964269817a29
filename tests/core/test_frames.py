"""The frame grammar, held against plain sets and against Conductor's own implementation."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from itertools import pairwise

import pytest
from cioseq.sequence import Sequence
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core import frame_runs
from framefarm.core.frame_grammar import Pick, parse, resolve_scouts
from framefarm.core.frame_runs import FrameSpecError, Run
from framefarm.core.frames import FrameSet
from framefarm.core.task_plan import TaskPlan

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
def test_text_that_is_no_spec_is_refused_with_the_position(spec: str, position: int) -> None:
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


@given(st.lists(st.tuples(st.integers(-400, 400), st.integers(-400, 400), st.integers(1, 40)), min_size=1))
def test_conductors_own_implementation_agrees_on_negatives_reversed_ends_and_separators(
    spec: list[tuple[int, int, int]],
) -> None:
    for between in (",", " ", ", ", " , "):
        text = between.join(f"{a}-{b}x{s}" if a != b else str(a) for a, b, s in spec)
        assert list(Sequence.create(text)) == list(frames(text))


@given(specs, st.integers(1, 400))
def test_conductors_fml_agrees(spec: list[tuple[int, int, int]], count: int) -> None:
    text = text_of(spec)
    assert list(Sequence.create(text).calc_fml(count)) == list(Pick("fml", count).of(frames(text)))


@given(specs, st.integers(1, 400))
def test_conductors_auto_differs_by_one_position_at_most(
    spec: list[tuple[int, int, int]], count: int
) -> None:
    """It adds floats from step to step; ours are integers."""
    text = text_of(spec)
    all_frames = frames(text)
    ours = [all_frames.position_of(f) for f in Pick("auto", count).of(all_frames)]
    theirs = [all_frames.position_of(f) for f in Sequence.create(text).subsample(count)]
    assert len(ours) == min(count, len(all_frames))
    assert all(abs(position - nearest(position, theirs)) <= 1 for position in ours)


def nearest(position: int, others: list[int]) -> int:
    return min(others, key=lambda other: abs(other - position))


@pytest.mark.parametrize("spec", ["1,,2", "1, ,2"])
def test_unlike_conductor_an_empty_item_between_commas_is_an_error(spec: str) -> None:
    assert list(Sequence.create(spec)) == [1, 2]
    with pytest.raises(FrameSpecError, match="an empty item"):
        parse(spec)


@pytest.mark.parametrize("spec", [" 1,2", "1,2 ", "1\t2", "1-2x01"])
def test_unlike_conductor_blanks_around_tabs_and_leading_zeros_of_a_step_are_fine(spec: str) -> None:
    with pytest.raises(ValueError):
        Sequence.create(spec)
    assert list(frames(spec)) == [1, 2]


def test_unlike_conductor_digits_of_other_scripts_are_refused() -> None:
    assert list(Sequence.create("١-٣")) == [1, 2, 3]
    with pytest.raises(FrameSpecError):
        parse("١-٣")


@given(st.integers(1, 200), st.integers(1, 220))
def test_picks_are_the_positions_of_the_formula(n: int, count: int) -> None:
    f = list(range(5, 5 + 3 * n, 3))
    every = frames(f"{f[0]}-{f[-1]}x3")
    auto = f if count >= n else [f[n * (2 * i + 1) // (2 * count)] for i in range(count)]
    if count >= n:
        fml = f
    elif count == 1:
        fml = [f[0]]
    else:
        fml = [f[0], *(f[i * (n // (count - 1))] for i in range(1, count - 1)), f[-1]]
    assert list(Pick("auto", count).of(every)) == auto
    assert list(Pick("fml", count).of(every)) == fml


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


TEN_THOUSAND_RUNS = [5 * n + k for n in range(5000) for k in (0, 2)]


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("-1048574-1048574x3", 699_050),
        ("1-1000000", 1_000_000),
        ("1-500000,500001-1000000", 1_000_000),
        ("1 " * 10_000, 1),
        (" ".join(map(str, TEN_THOUSAND_RUNS)), 10_000),
        ("-1048574,1048574", 2),
        ("1" + " " * 65_535, 1),
        ("0" * 63 + "1", 1),
    ],
    ids=["span", "frames", "frames in two items", "items", "runs", "first and last", "bytes", "item"],
)
def test_the_limits_themselves_are_allowed(spec: str, count: int) -> None:
    assert len(frames(spec)) == count


def test_a_message_quotes_40_characters_of_a_bad_item() -> None:
    with pytest.raises(FrameSpecError, match=f"^'{'a' * 40}' is not a frame"):
        parse("a" * 64)
    with pytest.raises(FrameSpecError, match=f"^'{'a' * 40}' begins an item longer than 64 characters"):
        parse("a" * 65)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("1-1000001", "1000001 frames"),
        ("1-600000,600001-1000001", "1000001 frames"),
        ("1 " * 10_001, "10000 items"),
        ("1" + " " * 65_536, "65536 bytes"),
        ("0" * 64 + "1", "longer than 64 characters"),
        ("1048575", "frame 1048575 is not within -1048574 to 1048574"),
        ("1048575-1", "frame 1048575 is not within"),
        ("1-1048575", "frame 1048575 is not within"),
        ("-1048575", "not within"),
        ("9" * 30, "not within"),
        ("9" * 5_000, "longer than 64 characters"),
        ("1-1000000x2,1-1000000x3", "separate runs"),
    ],
)
def test_a_spec_over_a_limit_is_refused_with_the_limit(spec: str, message: str) -> None:
    with pytest.raises(FrameSpecError, match=message):
        parse(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("1-5:2", "colon.*a-bxS.*character 1"),
        ("1, 2-9x0", "'2-9x0' has step 0.*character 4"),
        ("1,2,", "empty item.*character 5"),
        ("4,fml:3", "alone.*character 3"),
        ("fml:", "alone"),
        ("auto:-1", "alone"),
        ("auto:0", "^auto:N needs N of at least 1.*character 6"),
        ("1 - 5", "'-' is not.*character 3"),
        ("1 + 2", r"'\+' is not.*character 3"),
        ("1x3", "'1x3'"),
        ("1-5X2", "'1-5X2'"),
        ("1\n2", "is not a frame"),
        ("\ud800", "is not a frame"),
    ],
)
def test_a_refusal_quotes_the_item_and_its_position(spec: str, message: str) -> None:
    with pytest.raises(FrameSpecError, match=message):
        parse(spec)


@pytest.mark.parametrize(
    "spec",
    [
        ",".join(f"{-1048574 + 3 * i}-1048574x3" for i in range(3000)),
        ",".join(f"{-1048574 + i}-1048574x7" for i in range(3000)),
        ",".join(f"1-1000000x{step}" for step in range(2, 4000)),
        ",".join(f"{1 + r}-1000000x{s}" for s in range(2, 80) for r in range(s - 1))[:65_000].rpartition(",")[
            0
        ],
    ],
    ids=["one lane", "seven lanes", "all steps", "all lanes but one"],
)
def test_hostile_specs_need_no_more_memory_than_the_map_of_all_frames(spec: str) -> None:
    tracemalloc.start()
    try:
        with suppress(FrameSpecError):
            parse(spec)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def test_a_million_frames_are_one_run_and_its_tasks_are_computed() -> None:
    everything = frames("1-1000000")
    assert len(everything.runs) == 1
    plan = TaskPlan(everything, resolve_scouts("fml:3", everything), 7)
    assert plan.task_count == 3 + 142_857
    assert plan.number_width == 6
    assert plan.frames_of(1) == [500_001]
    assert plan.frames_of(plan.task_count - 1) == list(range(999_994, 1_000_000))[1:]
    assert len(plan.rest.runs) == 2


def test_tasks_are_numbered_with_three_digits_or_as_many_as_needed() -> None:
    assert [TaskPlan(frames(f"1-{n}"), FrameSet(), 1).number_width for n in (1, 1000, 1001)] == [3, 3, 4]


def test_there_is_no_task_beyond_the_last_nor_one_for_a_frame_not_asked_for() -> None:
    plan = TaskPlan(frames("1-9x2"), FrameSet(), 2)
    for number in (-1, 3, 4, 99):
        with pytest.raises(IndexError):
            plan.frames_of(number)
    with pytest.raises(ValueError):
        plan.task_of(2)


def test_the_stepped_chunks_of_the_rules_hold_nothing_else() -> None:
    plan = TaskPlan(frames("1-20x3"), FrameSet(), 3)
    assert [plan.frames_of(n) for n in range(plan.task_count)] == [[1, 4, 7], [10, 13, 16], [19]]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", []),
        ("fml:3", [1, 5, 9]),
        ("auto:1", [5]),
        ("3-100x2", [3, 5, 7, 9]),
        ("fml:99", list(range(1, 10))),
        ("fml:99999", list(range(1, 10))),
    ],
)
def test_scouts_are_picked_from_or_cut_down_to_the_jobs_frames(spec: str, expected: list[int]) -> None:
    assert list(resolve_scouts(spec, frames("1-9"))) == expected


@pytest.mark.parametrize("spec", ["1-10000", "fml:10000", "auto:10000"])
def test_ten_thousand_scouts_are_allowed(spec: str) -> None:
    assert len(resolve_scouts(spec, frames("1-1000000"))) == 10_000


@pytest.mark.parametrize("spec", ["1-10001", "fml:10001", "auto:500000", "auto:700000", "1-1000000"])
def test_scouts_are_ten_thousand_at_most(spec: str) -> None:
    with pytest.raises(FrameSpecError, match="at most 10000"):
        resolve_scouts(spec, frames("1-1000000"))


def test_a_pick_of_more_than_a_job_may_have_is_refused() -> None:
    scene = FrameSet([Run(0, 1_048_574, 1)])
    with pytest.raises(FrameSpecError, match="1048575 frames"):
        Pick("fml", 2_000_000).of(scene)
    with pytest.raises(FrameSpecError, match="separate runs"):
        Pick("auto", 700_000).of(scene)
