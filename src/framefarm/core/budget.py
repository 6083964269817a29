"""Budgets by reservation: a session reserves money in slices before it spends it. Pure; integer
micro-dollars.

A session reserves from every budget that applies to its job. `spent + reserved` of a budget's balance never
exceeds its limit as long as no session spends more than it reserved. With mode `stop`, the farm ensures that:
it stops the session early enough, and never bills it for more. With mode `drain`, frames in work are
finished, and only their cost may exceed the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from framefarm.core.money import MS_PER_HOUR

Mode = Literal["drain", "stop"]
SLICE_MS = 15 * 60_000
"""Time that one slice pays for, in milliseconds, while the limit is far."""
DRAIN_LEAST_MS = 1000
"""Least time that a slice of a draining budget pays for, in milliseconds."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """Amount and thresholds of a budget. Thresholds are percent of the amount; None: no such threshold."""

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
        """Lowest threshold beyond which sessions get no money; None for a budget that only warns."""
        limits = [x for x in (self._at(self.hold_at), self._at(self.cancel_at)) if x is not None]
        return min(limits, default=None)

    @property
    def cancel_micros(self) -> int | None:
        return self._at(self.cancel_at)

    @property
    def cancels_at_limit(self) -> bool:
        """Whether this budget cancels a job that has reached its limit, instead of holding it."""
        return self.cancel_at is not None and (self.hold_at is None or self.cancel_at <= self.hold_at)

    def _at(self, percent: int | None) -> int | None:
        return None if percent is None else self.amount_micros * percent // 100


@dataclass(slots=True)
class BudgetBalance:
    """Spent and reserved money of one budget in its period, micro-dollars. `limit_micros` None: no limit."""

    id: str
    mode: Mode
    limit_micros: int | None
    spent_micros: int = 0
    reserved_micros: int = 0

    @property
    def free_micros(self) -> int:
        """Money that may still be reserved. Only for a balance with a limit."""
        assert self.limit_micros is not None
        return self.limit_micros - self.spent_micros - self.reserved_micros


@dataclass(slots=True)
class SessionReservation:
    """Money that a session has reserved. `held`: budget id → micro-dollars reserved and not settled yet."""

    session: str
    price_micros: int
    """Per hour."""
    settled_micros: int = 0
    """Part of the session's cost that was taken out of `held` already."""
    held: dict[str, int] = field(default_factory=dict)

    def cap_micros(self, balances: Mapping[str, BudgetBalance]) -> int | None:
        """Most that the session may cost in total; None if no stopping budget applies to it."""
        stopping = [held for budget, held in self.held.items() if _stops(balances[budget])]
        return self.settled_micros + min(stopping) if stopping else None


def _stops(balance: BudgetBalance) -> bool:
    return balance.mode == "stop" and balance.limit_micros is not None


def cost_rounded_up(ms: int, price_micros: int) -> int:
    """Cost of `ms` milliseconds in micro-dollars, rounded up; `price_micros` is per hour."""
    return -(-ms * price_micros // MS_PER_HOUR)


def settle(reservation: SessionReservation, balances: Mapping[str, BudgetBalance], spent_micros: int) -> None:
    """Move new costs from reserved to spent. `spent_micros`: cost of all ended attempts of the session."""
    new_micros = spent_micros - reservation.settled_micros
    for name, held in reservation.held.items():
        used = min(held, new_micros)
        reservation.held[name] = held - used
        balances[name].reserved_micros -= used
        balances[name].spent_micros += new_micros
    reservation.settled_micros = spent_micros


def slice_micros(free: int, price_micros: int, *, least: int, takers: int) -> int:
    """Size of the next slice, from `free` micro-dollars: 15 minutes' worth.

    Near the limit it is smaller, so that `takers` sessions share the remaining money. It is at least `least`,
    or 0 if `free` is less than that.
    """
    if free < least:
        return 0
    share = free // (2 * max(1, takers))
    return min(max(least, cost_rounded_up(SLICE_MS, price_micros)), max(least, share))


@dataclass(frozen=True, slots=True)
class ReserveResult:
    """Result of `reserve`. `taken`: a slice was reserved; `refused`: ids of the budgets without enough
    money."""

    taken: bool = False
    refused: tuple[str, ...] = ()


def reserve(
    reservation: SessionReservation,
    above: Iterable[BudgetBalance],
    *,
    running_micros: int,
    stop_margin_ms: int,
    drain_margin_ms: int,
    takers: Mapping[str, int] | None = None,
) -> ReserveResult:
    """Reserve a slice from each of the budgets `above` in which the session's reservation runs low, or from
    none.

    `running_micros`: cost so far of the attempt in work. The margins are milliseconds: for a draining budget
    until the next check of the session, for a stopping one also the time that it takes to stop it. `takers`:
    budget id → number of sessions that reserve from it.
    """
    low: list[tuple[BudgetBalance, int]] = []
    for balance in above:
        margin_ms = stop_margin_ms if balance.mode == "stop" else drain_margin_ms
        worth_ms = stop_margin_ms if balance.mode == "stop" else DRAIN_LEAST_MS
        short = (
            running_micros
            + cost_rounded_up(margin_ms, reservation.price_micros)
            - reservation.held.setdefault(balance.id, 0)
        )
        if balance.limit_micros is not None and reservation.price_micros and short > 0:
            low.append((balance, short + cost_rounded_up(worth_ms, reservation.price_micros)))
    refused = tuple(balance.id for balance, least in low if balance.free_micros < least)
    if refused or not low:
        return ReserveResult(refused=refused)
    for balance, least in low:
        sharing = (takers or {}).get(balance.id, 1)
        amount = slice_micros(balance.free_micros, reservation.price_micros, least=least, takers=sharing)
        balance.reserved_micros += amount
        reservation.held[balance.id] += amount
    return ReserveResult(taken=True)


def release(
    reservation: SessionReservation, balances: Mapping[str, BudgetBalance], spent_micros: int
) -> None:
    """Settle an ended session, and return its unspent reservation to the budgets."""
    settle(reservation, balances, spent_micros)
    for name, held in reservation.held.items():
        balances[name].reserved_micros -= held
    reservation.held.clear()


def may_resume(balance: BudgetBalance, price_micros: int, *, changed: bool, least_ms: int) -> bool:
    """Whether a job that this budget holds may go on.

    If the budget was `changed` (also by the start of a month), a first slice of `least_ms` is enough.
    Otherwise a whole slice must be free: money returned by draining sessions would start and stop the job
    again and again.
    """
    if balance.limit_micros is None or not price_micros:
        return True
    needed_ms = least_ms if changed else max(SLICE_MS, least_ms)
    return balance.free_micros >= cost_rounded_up(needed_ms, price_micros)
