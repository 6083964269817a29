"""The forecast: its interval holds the truth about eight times in ten."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.forecast import Forecast, Span, Sums, forecast, rest_ms, t_90

FRAMES = 240


def sums(done: list[int], **more: int) -> Sums:
    return Sums(len(done), sum(done), float(sum(x * x for x in done)), **more)


def predicted(done: list[int], left: int, **more: int) -> Forecast:
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


@pytest.mark.parametrize(("freedom", "exact"), [(1, 3.077684), (2, 1.885618), (10, 1.372184), (30, 1.310415)])
def test_students_t_is_exact_for_one_and_two_and_close_for_many_degrees(freedom: int, exact: float) -> None:
    assert t_90(freedom) == pytest.approx(exact, abs=1e-5)


def test_students_t_for_three_degrees_is_that_of_the_published_expansion() -> None:
    """Abramowitz and Stegun, 26.7.5, with four terms; the true value is 1.637744."""
    assert t_90(3) == pytest.approx(1.636753, abs=1e-6)


def test_students_t_needs_a_degree_of_freedom() -> None:
    for freedom in (0, -1):
        with pytest.raises(ValueError):
            t_90(freedom)


def test_spans_are_scaled_and_shifted_as_a_whole() -> None:
    assert Span(3.0, 1.0, 7.0).times(2.0) == Span(6.0, 2.0, 14.0)
    assert Span(3.0, 1.0, 7.0).plus(2.0) == Span(5.0, 3.0, 9.0)
    assert Span(3.0, None, None).times(2.0) == Span(6.0, None, None)
    assert Span(3.0, None, None).plus(2.0) == Span(5.0, None, None)


def test_the_rest_of_a_job_by_hand() -> None:
    around = 3.077684 * (2_000_000 * (2 + 2 * 2 / 2)) ** 0.5  # t for one degree, variance, 2 frames left of 4
    span = rest_ms(sums([1000, 3000]), 2)
    assert span is not None
    assert (span.expected, span.low) == (4000, 0)
    assert span.high == pytest.approx(4000 + around, abs=0.1)
    close = rest_ms(sums([1000, 1002, 1004]), 1)
    assert close is not None and close.low is not None
    assert close.low == pytest.approx(1002 - 1.885618 * (4 * (1 + 1 / 3)) ** 0.5, abs=1e-3)
    assert rest_ms(sums([1000]), 3) == Span(3000, None, None)
    assert rest_ms(sums([]), 3) is None


def test_rounding_of_the_sums_makes_no_negative_variance() -> None:
    assert rest_ms(Sums(2, 2000, 1_999_999.0), 1) == Span(1000, 1000, 1000)


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
    assert predicted([], 9, machines=4) == Forecast(9, 0, 4, None, None)
    assert predicted([], 0) == Forecast(0, 0, 1, None, None)


def test_one_frame_gives_an_expectation_and_no_interval() -> None:
    seen = predicted([2000], 10)
    assert seen.seconds is not None and seen.cost_micros is not None
    assert (seen.seconds.expected, seen.seconds.low, seen.seconds.high) == (20.0, None, None)
    assert seen.cost_micros.expected == 20_000


def test_a_job_with_all_frames_done_has_no_time_and_no_cost_ahead() -> None:
    seen = predicted([2000, 3000], 0)
    assert seen == Forecast(0, 2, 1, Span(0.0, 0.0, 0.0), Span(0.0, 0.0, 0.0))
    assert predicted([2000], 0, warm=0, loads=1, load_ms=999).seconds == Span(0.0, 0.0, 0.0)


def test_machines_shorten_the_time_and_not_the_cost() -> None:
    one, four = predicted([1000, 1000], 8), predicted([1000, 1000], 8, machines=4)
    assert one.seconds and four.seconds and one.cost_micros and four.cost_micros
    assert (one.seconds.expected, four.seconds.expected) == (8.0, 2.0)
    assert one.cost_micros == four.cost_micros


def test_more_machines_than_frames_do_not_help() -> None:
    seen = predicted([1000, 1000], 3, machines=50)
    assert seen.seconds and (seen.machines, seen.seconds.expected) == (3, 1.0)


def test_an_uneven_last_round_takes_its_time() -> None:
    seen = predicted([1000, 1000], 5, machines=4)
    assert seen.seconds and seen.seconds.expected == pytest.approx(2.0)


def test_a_forecast_names_its_frames_and_machines() -> None:
    seen = predicted([1000, 1000], 8, machines=4)
    assert (seen.frames_left, seen.based_on_frames, seen.machines) == (8, 2, 4)
    assert predicted([1000, 1000], 8, machines=0).machines == 1


def test_loading_counts_where_no_machine_has_the_scene_open() -> None:
    warm, cold = (predicted([1000, 1000], 5, warm=w, loads=2, load_ms=8000) for w in (1, 0))
    assert warm.seconds and cold.seconds
    assert cold.seconds.expected - warm.seconds.expected == pytest.approx(4.0)
    never = predicted([1000, 1000], 5, warm=0)
    assert never.seconds and never.seconds.expected == pytest.approx(5.0)


def test_every_machine_pays_for_its_loading() -> None:
    warm, cold = (predicted([1000, 1000], 6, machines=3, warm=w, loads=2, load_ms=8000) for w in (1, 0))
    assert warm.cost_micros and cold.cost_micros and warm.seconds and cold.seconds
    assert cold.cost_micros.expected - warm.cost_micros.expected == pytest.approx(3 * 4000)
    assert cold.seconds.expected - warm.seconds.expected == pytest.approx(4.0)


def test_cost_is_time_at_the_price_of_an_hour() -> None:
    seen = predicted([1000, 1000], 5, price=7_200_000)
    assert seen.cost_micros and seen.cost_micros.expected == pytest.approx(10_000)


def test_time_billed_beside_rendering_is_expected_again() -> None:
    seen = predicted([1000, 1000], 5, billed_frames=2, billed_ms=3000)
    assert seen.cost_micros and seen.cost_micros.expected == pytest.approx(5 * 1500)
    assert seen.seconds and seen.seconds.expected == pytest.approx(5 * 1.5)


@pytest.mark.parametrize(
    ("billed", "each_ms"),
    [
        ({"billed_frames": 2, "billed_ms": 3000, "loads": 1, "load_ms": 400}, 1300),
        ({"billed_frames": 2, "billed_ms": 1800}, 1000),
        ({"billed_frames": 2, "billed_ms": 3000, "loads": 1, "load_ms": 9000}, 1000),
        ({"billed_frames": 0, "billed_ms": 3000}, 1000),
        ({"billed_frames": 1, "billed_ms": 3000}, 3000),
    ],
)
def test_a_frame_costs_its_bill_without_loading_but_never_less_than_its_rendering(
    billed: dict[str, int], each_ms: int
) -> None:
    seen = predicted([1000, 1000], 5, **billed)
    assert seen.cost_micros and seen.cost_micros.expected == pytest.approx(5 * each_ms)


@given(st.lists(st.integers(1, 10**7), min_size=2, max_size=50), st.integers(1, 10**6), st.integers(0, 100))
def test_an_interval_is_around_its_expectation_and_never_negative(
    done: list[int], left: int, machines: int
) -> None:
    seen = predicted(done, left, machines=machines)
    for span in (seen.seconds, seen.cost_micros):
        assert span and span.low is not None and span.high is not None
        assert 0 <= span.low <= span.expected * (1 + 1e-9) and span.expected <= span.high * (1 + 1e-9)


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=50))
def test_running_sums_know_the_spread_of_the_frames(done: list[int]) -> None:
    span = rest_ms(sums(done), 1)
    assert span and span.high is not None
    around = t_90(len(done) - 1) * statistics.stdev(done) * (1 + 1 / len(done)) ** 0.5
    assert span.high - span.expected == pytest.approx(around, rel=1e-3, abs=5)
