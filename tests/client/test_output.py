from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.cli.output import clean, duration, money, size


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", clean(text))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("two\nlines", "two lines"),
        ("ordinary – ü 雪", "ordinary – ü 雪"),
        ("\x1bc", ""),
        ("left\u202eright", "leftright"),
        ("a\u061cb\u2028c\u2029d\u200ee\u2066f", "abcdef"),
    ],
)
def test_escape_sequences_are_removed_completely(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_a_log_keeps_its_lines() -> None:
    assert clean("a\r\n\tb\x1b[1A\n", lines=True) == "a\n\tb\n"


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "$0.00"),
        (48, "$0.000048"),
        (9_999, "$0.009999"),
        (20_000, "$0.02"),
        (12_345, "$0.0123"),
        (12_350, "$0.0124"),
        (12_450, "$0.0124"),
        (1_000_000, "$1.00"),
        (1_234_565_000, "$1,234.56"),
        (1_234_575_000, "$1,234.58"),
        (-2_500_000, "-$2.50"),
        (-1, "-$0.000001"),
        (999_990, "$1.0000"),
    ],
)
def test_micro_dollars_are_shown_as_dollars(micros: int, shown: str) -> None:
    assert money({"amount_micros": micros, "currency": "USD"}) == shown


@given(st.integers(-(10**15), 10**15))
def test_money_is_rounded_as_the_farm_rounds(micros: int) -> None:
    shown = money({"amount_micros": micros})
    digits = len(shown.partition(".")[2])
    exact = (Decimal(micros) / 1_000_000).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    assert Decimal(shown.replace("$", "").replace(",", "")) == exact


def test_currencies_other_than_dollars_are_named() -> None:
    assert money({"amount_micros": 2_000_000, "currency": "EUR"}) == "EUR 2.00"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (4.24, "4.2 s"), (59, "59 s"), (192, "3 min 12 s"), (7500, "2 h 5 min")],
)
def test_durations_are_shown_in_readable_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 KB"), (10**9, "1.0 GB")]
)
def test_sizes_are_shown_in_readable_units(count: int, shown: str) -> None:
    assert size(count) == shown
