"""Budgets by reservation: sessions take money in slices before they spend it. Pure; integers throughout.

A **pot** is what one budget has in its period, a **purse** what one session has set aside from every pot
above it. `spent + reserved` of a pot never passes its limit as long as no session spends more than its purse
holds. Under a budget that stops, the farm sees to that: it stops the session while a margin is left, and
never bills it for more. Under one that drains, frames in work end, and only their cost can be too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from framefarm.core.money import MS_PER_HOUR

Mode = Literal["drain", "stop"]
SLICE_MS = 15 * 60_000
"""What a session takes at a time, far from the limit."""
DRAIN_LEAST_MS = 1000
"""A slice under a budget that drains is worth at least this much time."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """What a budget says. Thresholds are percent of the amount; None: it never does that."""

    amount_micros: int
    mode: Mode
    warn_at: int | None
    hold_at: int | None
    cancel_at: int | None

    @property
    def warn_micros(self) -> int | None:
        return self._at(self.warn_at)

    @property
    def limit_micros(self) -> int | None:
        """Sessions get no money beyond it; None for a budget that only warns."""
        limits = [x for x in (self._at(self.hold_at), self._at(self.cancel_at)) if x is not None]
        return min(limits, default=None)

    @property
    def cancel_micros(self) -> int | None:
        return self._at(self.cancel_at)

    @property
    def cancels_at_limit(self) -> bool:
        """Whether a job that gets no money is cancelled and not held."""
        return self.cancel_at is not None and (self.hold_at is None or self.cancel_at <= self.hold_at)

    def _at(self, percent: int | None) -> int | None:
        return None if percent is None else self.amount_micros * percent // 100


@dataclass(slots=True)
class BudgetBalance:
    """A budget's money in its period, micro-dollars. `limit_micros` None: there is no limit."""

    id: str
    mode: Mode
    limit_micros: int | None
    spent_micros: int = 0
    reserved_micros: int = 0

    @property
    def free_micros(self) -> int:
        """What may still be set aside. Only of a pot with a limit."""
        assert self.limit_micros is not None
        return self.limit_micros - self.spent_micros - self.reserved_micros


@dataclass(slots=True)
class SessionReservation:
    """What a session has set aside: pot → micro-dollars not spent yet, as far as settled."""

    session: str
    price_micros: int
    """Per hour."""
    settled_micros: int = 0
    """How much of the session's cost was taken out of `held` before."""
    held: dict[str, int] = field(default_factory=dict)

    def cap_micros(self, pots: Mapping[str, BudgetBalance]) -> int | None:
        """The most that the session may ever cost, all told; None unless a budget that stops is above it."""
        strict = [held for pot, held in self.held.items() if _stops(pots[pot])]
        return self.settled_micros + min(strict) if strict else None


def _stops(pot: BudgetBalance) -> bool:
    return pot.mode == "stop" and pot.limit_micros is not None


def price_of(ms: int, price_micros: int) -> int:
    """What `ms` milliseconds cost at most: rounded up."""
    return -(-ms * price_micros // MS_PER_HOUR)


def settle(purse: SessionReservation, pots: Mapping[str, BudgetBalance], spent_micros: int) -> None:
    """The session's ended attempts cost `spent_micros` by now, all told: what is new is spent."""
    fresh = spent_micros - purse.settled_micros
    for name, held in purse.held.items():
        used = min(held, fresh)
        purse.held[name] = held - used
        pots[name].reserved_micros -= used
        pots[name].spent_micros += fresh
    purse.settled_micros = spent_micros


def slice_micros(free: int, price_micros: int, *, least: int, takers: int) -> int:
    """How much to set aside of `free`: 15 minutes' worth, smaller near the limit so that `takers` sessions
    share what is left, 0 if that would be less than `least`."""
    if free < least:
        return 0
    near = free // (2 * max(1, takers))
    return min(max(least, price_of(SLICE_MS, price_micros)), max(least, near))


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking for money. `taken`: a slice was set aside; `refused`: the pots that had none."""

    taken: bool = False
    refused: tuple[str, ...] = ()


def ask(
    purse: SessionReservation,
    above: Iterable[BudgetBalance],
    *,
    running_micros: int,
    stop_margin_ms: int,
    drain_margin_ms: int,
    takers: Mapping[str, int] | None = None,
) -> Asked:
    """Set a slice aside in each of `above` that is about to run out, or in none.

    `running_micros`: what the attempt in work costs so far; a margin: the time within which the session will
    not have been looked at again (`drain`), or could not be stopped (`stop`).
    """
    low: list[tuple[BudgetBalance, int]] = []
    for pot in above:
        margin_ms = stop_margin_ms if pot.mode == "stop" else drain_margin_ms
        worth_ms = stop_margin_ms if pot.mode == "stop" else DRAIN_LEAST_MS
        short = running_micros + price_of(margin_ms, purse.price_micros) - purse.held.setdefault(pot.id, 0)
        if pot.limit_micros is not None and purse.price_micros and short > 0:
            low.append((pot, short + price_of(worth_ms, purse.price_micros)))
    refused = tuple(pot.id for pot, least in low if pot.free_micros < least)
    if refused or not low:
        return Asked(refused=refused)
    for pot, least in low:
        sharing = (takers or {}).get(pot.id, 1)
        amount = slice_micros(pot.free_micros, purse.price_micros, least=least, takers=sharing)
        pot.reserved_micros += amount
        purse.held[pot.id] += amount
    return Asked(taken=True)


def close(purse: SessionReservation, pots: Mapping[str, BudgetBalance], spent_micros: int) -> None:
    """The session is over: what it set aside and did not spend comes back."""
    settle(purse, pots, spent_micros)
    for name, held in purse.held.items():
        pots[name].reserved_micros -= held
    purse.held.clear()


def enough_to_go_on(pot: BudgetBalance, price_micros: int, *, changed: bool, least_ms: int) -> bool:
    """Whether a job that this budget holds goes on: at once when the budget was changed or its next month
    began and a first slice is there; else only for a whole slice, so that what draining sessions gave back
    does not start and stop it again and again. `least_ms`: the time that a first slice must be worth."""
    if pot.limit_micros is None or not price_micros:
        return True
    needed_ms = least_ms if changed else max(SLICE_MS, least_ms)
    return pot.free_micros >= price_of(needed_ms, price_micros)
