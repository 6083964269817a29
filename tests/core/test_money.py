"""Costs, bills and amounts: exact to the micro-dollar."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.money import (
    MS_PER_HOUR,
    affordable_ms,
    balanced,
    billed_ms,
    cost_micros,
    format_amount,
    money,
    parse_amount,
)


@given(st.integers(0, 10**10), st.integers(0, 10**10))
def test_cost_is_rounded_half_to_even_exactly(ms: int, price: int) -> None:
    exact = Decimal(ms) * Decimal(price) / Decimal(3_600_000)
    assert cost_micros(ms, price) == int(exact.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@given(st.integers(-(10**9), 10**15), st.integers(1, 10**12))
def test_affordable_time_is_the_longest_whose_exact_cost_is_within_the_money(micros: int, price: int) -> None:
    ms = affordable_ms(micros, price)
    assert ms is not None
    assert ms * price <= max(0, micros) * MS_PER_HOUR < (ms + 1) * price


def test_an_hour_of_money_affords_an_hour_and_debts_afford_no_time() -> None:
    assert affordable_ms(7, 7) == 3_600_000
    assert [affordable_ms(micros, 1) for micros in (0, -1, -2)] == [0, 0, 0]


@given(st.integers(-5, 5))
def test_affordable_time_has_no_limit_where_time_is_free(micros: int) -> None:
    assert affordable_ms(micros, 0) is None


@given(st.integers(-(10**15), 10**15))
def test_amounts_survive_being_written_and_read(micros: int) -> None:
    assert parse_amount(format_amount(micros).removesuffix(" USD")) == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("12", 12_000_000),
        ("12.50", 12_500_000),
        ("-0.001234", -1234),
        (" 0.000001 ", 1),
        ("9999999999.999999", 10**16 - 1),
    ],
)
def test_amounts_are_read_as_micro_dollars(text: str, micros: int) -> None:
    assert parse_amount(text) == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00 USD"),
        (1, "0.000001 USD"),
        (-1, "-0.000001 USD"),
        (12_500_000, "12.50 USD"),
        (-1234, "-0.001234 USD"),
    ],
)
def test_amounts_are_written_with_two_decimals_or_as_many_as_needed(micros: int, text: str) -> None:
    assert format_amount(micros) == text


@pytest.mark.parametrize("text", ["", "1.2345678", "1e3", "1,5", "$5", "--1", "NaN", "99999999999", "1."])
def test_text_that_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_amount(text)


def test_a_refused_amount_is_quoted_up_to_40_characters() -> None:
    with pytest.raises(ValueError, match=r"^'x{40}' is not an amount"):
        parse_amount("x" * 41)


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


def test_a_bill_is_limited_to_the_time_that_the_server_measured() -> None:
    assert billed_ms("success", started_ms=0, ended_ms=10_000, last_commit_ms=None, limit_ms=300) == 300


@given(st.integers())
def test_postings_balance_only_if_they_sum_to_zero(amount: int) -> None:
    assert balanced([amount, -amount])
    assert balanced([amount]) == (amount == 0)


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
def test_a_negative_time_or_price_is_refused(ms: int, price: int) -> None:
    with pytest.raises(ValueError):
        cost_micros(ms, price)


def test_one_posting_alone_does_not_balance() -> None:
    assert not balanced([1])
    assert not balanced([-1])
    assert balanced([])


def test_money_names_its_currency() -> None:
    assert money(1_250_000) == {"amount_micros": 1_250_000, "currency": "USD"}
