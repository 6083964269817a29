"""The forecast keeps its word: its interval holds the truth about eight times in ten."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.forecast import Forecast, Sums, forecast, rest_ms, t_90

FRAMES = 240


def sums(done: list[int], **more: int) -> Sums:
    return Sums(len(done), sum(done), float(sum(x * x for x in done)), **more)


def look(done: list[int], left: int, **more: int) -> Forecast:
    warm = bool(more.pop("warm", 1))
    machines, price = more.pop("machines", 1), more.pop("price", 3_600_000)
    return forecast(
        sums(done, **more), frames_left=left, machines=machines, warm=warm, price_micros_per_hour=price
    )


@pytest.mark.parametrize(
    ("freedom", "published"),
    [(1, 3.0777), (2, 1.8856), (3, 1.6377), (4, 1.5332), (9, 1.3830), (29, 1.3114), (1000, 1.2824)],
)
def test_students_t_is_that_of_the_tables(freedom: int, published: float) -> None:
    assert t_90(freedom) == pytest.approx(published, abs=0.005)


def even(rng: random.Random) -> list[int]:
    return [round(rng.gauss(60_000, 9_000)) for _ in range(FRAMES)]


def skewed(rng: random.Random) -> list[int]:
    return [round(rng.lognormvariate(10, 0.5)) for _ in range(FRAMES)]


def rising(rng: random.Random) -> list[int]:
    """A shot that gets heavier: a sample that is spread over it sees that."""
    return [round(20_000 + 200 * n + rng.gauss(0, 2_000)) for n in range(FRAMES)]


@pytest.mark.parametrize("scouts", [3, 5, 12, 60])
@pytest.mark.parametrize("shot", [even, skewed, rising])
def test_the_interval_holds_the_truth_about_eight_times_in_ten(
    shot: Callable[[random.Random], list[int]], scouts: int
) -> None:
    rng = random.Random(f"{shot.__name__} {scouts}")
    held, rounds = 0, 1000
    for _ in range(rounds):
        frames = shot(rng)
        done = rng.sample(range(FRAMES), scouts)
        truth = sum(frames) - sum(frames[n] for n in done)
        span = rest_ms(sums([frames[n] for n in done]), FRAMES - scouts)
        assert span is not None and span.low is not None and span.high is not None
        held += span.low <= truth <= span.high
    assert 0.70 <= held / rounds <= 0.87


def test_without_a_frame_nothing_is_expected() -> None:
    seen = look([], 9)
    assert (seen.frames_left, seen.based_on_frames, seen.seconds, seen.cost_micros) == (9, 0, None, None)


def test_one_frame_gives_an_expectation_and_no_interval() -> None:
    seen = look([2000], 10)
    assert seen.seconds is not None and seen.cost_micros is not None
    assert (seen.seconds.expected, seen.seconds.low, seen.seconds.high) == (20.0, None, None)
    assert seen.cost_micros.expected == 20_000


def test_when_all_is_done_nothing_is_left_to_pay() -> None:
    seen = look([2000, 3000], 0)
    assert seen.seconds is not None and seen.cost_micros is not None
    assert (seen.seconds.high, seen.cost_micros.high) == (0.0, 0.0)


def test_machines_shorten_the_time_and_not_the_cost() -> None:
    one, four = look([1000, 1000], 8), look([1000, 1000], 8, machines=4)
    assert one.seconds and four.seconds and one.cost_micros and four.cost_micros
    assert (one.seconds.expected, four.seconds.expected) == (8.0, 2.0)
    assert one.cost_micros == four.cost_micros


def test_more_machines_than_frames_do_not_help() -> None:
    seen = look([1000, 1000], 3, machines=50)
    assert seen.seconds and (seen.machines, seen.seconds.expected) == (3, 1.0)


def test_an_uneven_last_round_takes_its_time() -> None:
    seen = look([1000, 1000], 5, machines=4)
    assert seen.seconds and seen.seconds.expected == pytest.approx(2.0)


def test_loading_counts_where_no_machine_has_the_scene_open() -> None:
    warm, cold = (look([1000, 1000], 5, warm=w, loads=2, load_ms=8000) for w in (1, 0))
    assert warm.seconds and cold.seconds
    assert cold.seconds.expected - warm.seconds.expected == pytest.approx(4.0)


def test_what_is_paid_beside_rendering_is_expected_to_be_paid_again() -> None:
    seen = look([1000, 1000], 5, billed_frames=2, billed_ms=3000)
    assert seen.cost_micros and seen.cost_micros.expected == pytest.approx(5 * 1500)


@given(st.lists(st.integers(1, 10**7), min_size=2, max_size=50), st.integers(1, 10**6), st.integers(0, 100))
def test_an_interval_is_around_its_expectation_and_never_negative(
    done: list[int], left: int, machines: int
) -> None:
    seen = look(done, left, machines=machines)
    for span in (seen.seconds, seen.cost_micros):
        assert span and span.low is not None and span.high is not None
        assert 0 <= span.low <= span.expected * (1 + 1e-9) and span.expected <= span.high * (1 + 1e-9)


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=50))
def test_running_sums_know_the_spread_of_the_frames(done: list[int]) -> None:
    span = rest_ms(sums(done), 1)
    assert span and span.high is not None
    around = t_90(len(done) - 1) * statistics.stdev(done) * (1 + 1 / len(done)) ** 0.5
    assert span.high - span.expected == pytest.approx(around, rel=1e-3, abs=5)
