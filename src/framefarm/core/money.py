"""Money as integer micro-dollars (1,000,000 are one dollar), and billing of attempts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypedDict

MS_PER_HOUR = 3_600_000
MICROS = 1_000_000
_AMOUNT = re.compile(r"(-?)([0-9]{1,10})(?:\.([0-9]{1,6}))?\Z")

_BILLED_WHOLE = frozenset({"success", "failed", "cancelled", "timed_out"})


class Money(TypedDict):
    """An amount as the API represents it."""

    amount_micros: int
    currency: str


def money(micros: int, currency: str = "USD") -> Money:
    return {"amount_micros": micros, "currency": currency}


def cost_micros(billed_ms: int, price_micros_per_hour: int) -> int:
    """Cost in micro-dollars: billed milliseconds × price per hour, rounded half to even.

    Raises ValueError for a negative time or price.
    """
    if billed_ms < 0 or price_micros_per_hour < 0:
        raise ValueError("neither time nor price may be negative")
    whole, rest = divmod(billed_ms * price_micros_per_hour, MS_PER_HOUR)
    if 2 * rest > MS_PER_HOUR or (2 * rest == MS_PER_HOUR and whole % 2):
        whole += 1
    return whole


def affordable_ms(micros: int, price_micros_per_hour: int) -> int | None:
    """Longest time in milliseconds that costs at most `micros`; None if the price is 0."""
    return max(0, micros) * MS_PER_HOUR // price_micros_per_hour if price_micros_per_hour else None


def billed_ms(
    outcome: str, *, started_ms: int, ended_ms: int, last_commit_ms: int | None, limit_ms: int
) -> int:
    """Billed milliseconds of an attempt, from times on its runner's clock.

    `success failed cancelled timed_out`: the whole attempt; `preempted`: until its last committed frame;
    `lost`: nothing. At most `limit_ms`, the server's time between assignment and report. `last_commit_ms` is
    None if no frame was committed. Raises ValueError for another outcome.
    """
    if outcome == "lost":
        return 0
    if outcome == "preempted":
        ended_ms = started_ms if last_commit_ms is None else min(ended_ms, last_commit_ms)
    elif outcome not in _BILLED_WHOLE:
        raise ValueError(f"{outcome!r} is no outcome of an attempt")
    return max(0, min(ended_ms - started_ms, limit_ms))


def parse_amount(text: str) -> int:
    """`"12.50"` → 12_500_000 micro-dollars, exactly. Raises ValueError."""
    match = _AMOUNT.match(text.strip())
    if match is None:
        raise ValueError(
            f"{text[:40]!r} is not an amount such as 12.50 (below ten billion, at most six decimals)"
        )
    micros = int(match[2]) * MICROS + int((match[3] or "").ljust(6, "0"))
    return -micros if match[1] else micros


def format_amount(micros: int, currency: str = "USD") -> str:
    """Amount for people: two decimals, more only where needed.

    >>> format_amount(12_500_000), format_amount(-1234)
    ('12.50 USD', '-0.001234 USD')
    """
    whole, rest = divmod(abs(micros), MICROS)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{decimals} {currency}"


def balanced(postings: Iterable[int]) -> bool:
    """Whether a ledger transaction's postings sum to zero (double entry)."""
    return sum(postings) == 0
