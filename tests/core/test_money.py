"""Money is exact."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.money import balanced, billed_ms, cost_micros, format_amount, money, parse_amount


@given(st.integers(0, 10**10), st.integers(0, 10**10))
def test_cost_is_rounded_half_to_even_exactly(ms: int, price: int) -> None:
    exact = Decimal(ms) * Decimal(price) / Decimal(3_600_000)
    assert cost_micros(ms, price) == int(exact.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@given(st.integers(-(10**15), 10**15))
def test_amounts_survive_being_written_and_read(micros: int) -> None:
    assert parse_amount(format_amount(micros).removesuffix(" USD")) == micros


@pytest.mark.parametrize("text", ["", "1.2345678", "1e3", "1,5", "$5", "--1", "NaN", "99999999999"])
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_amount(text)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("success", 900),
        ("failed", 900),
        ("cancelled", 900),
        ("timed_out", 900),
        ("preempted", 400),
        ("lost", 0),
    ],
)
def test_each_outcome_is_billed_as_the_rules_say(outcome: str, expected: int) -> None:
    billed = billed_ms(outcome, started_ms=100, ended_ms=1000, last_commit_ms=500, limit_ms=5000)
    assert billed == expected


def test_nobody_is_billed_more_than_the_server_saw() -> None:
    assert billed_ms("success", started_ms=0, ended_ms=10_000, last_commit_ms=None, limit_ms=300) == 300


@given(st.integers())
def test_two_sides_balance(amount: int) -> None:
    assert balanced([amount, -amount])


@given(
    st.integers(0, 10**9), st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.integers(-10, 10**9)
)
@pytest.mark.parametrize("outcome", ["success", "failed", "cancelled", "timed_out", "preempted", "lost"])
def test_a_bill_is_never_negative_nor_above_what_runner_or_server_measured(
    outcome: str, started: int, ended: int, committed: int | None, limit: int
) -> None:
    billed = billed_ms(outcome, started_ms=started, ended_ms=ended, last_commit_ms=committed, limit_ms=limit)
    assert 0 <= billed <= max(0, min(ended - started, limit))


def test_a_preempted_attempt_without_a_frame_costs_nothing() -> None:
    assert billed_ms("preempted", started_ms=0, ended_ms=900, last_commit_ms=None, limit_ms=900) == 0


@pytest.mark.parametrize("outcome", ["", "running", "SUCCESS"])
def test_an_attempt_that_has_not_ended_is_not_billed(outcome: str) -> None:
    with pytest.raises(ValueError):
        billed_ms(outcome, started_ms=0, ended_ms=900, last_commit_ms=None, limit_ms=900)


@pytest.mark.parametrize(
    ("ms", "price", "cost"),
    [(1_800_000, 1, 0), (1_800_000, 3, 2), (1_800_000, 5, 2), (1_800_001, 1, 1), (3_600_000, 7, 7)],
)
def test_a_half_goes_to_the_even_neighbour(ms: int, price: int, cost: int) -> None:
    assert cost_micros(ms, price) == cost


@pytest.mark.parametrize(("ms", "price"), [(-1, 1), (1, -1)])
def test_neither_time_nor_price_is_negative(ms: int, price: int) -> None:
    with pytest.raises(ValueError):
        cost_micros(ms, price)


def test_one_posting_alone_does_not_balance() -> None:
    assert not balanced([1])
    assert balanced([])


def test_money_says_its_currency() -> None:
    assert money(1_250_000) == {"amount_micros": 1_250_000, "currency": "USD"}
