"""The frame grammar: examples, limits, messages, and Conductor's own implementation."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from cioseq.sequence import Sequence
from hypothesis import given
from hypothesis import strategies as st
from test_frames import frames, specs, text_of

from framefarm.core.frame_grammar import Pick, parse, parse_frames, resolve_scouts
from framefarm.core.frame_runs import FrameSpecError, Run
from framefarm.core.frames import FrameSet


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


def test_current_is_a_frame_of_the_scene_and_no_pick_of_others() -> None:
    assert parse(" current") == Pick("current", 1)
    for work in (lambda: parse_frames("current"), lambda: resolve_scouts("current", FrameSet.of([1]))):
        with pytest.raises(FrameSpecError):
            work()
    with pytest.raises(FrameSpecError):
        Pick("current", 1).of(FrameSet.of([1]))


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
