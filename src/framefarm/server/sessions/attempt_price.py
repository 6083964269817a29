"""Price of an attempt: micro-dollars per hour, by instance type and market.

The dispatcher fixes it in the row of the session when it starts the session; all attempts of the session are
billed at it.
"""

from __future__ import annotations

from typing import Protocol


class Priced(Protocol):
    """An instance type's prices, in micro-dollars per hour."""

    @property
    def price_micros(self) -> int: ...
    @property
    def preemptible_price_micros(self) -> int | None: ...


def price_of(instance: Priced, *, preemptible: bool) -> int:
    """Micro-dollars per hour. A type without a preemptible price costs its on-demand price."""
    if preemptible and instance.preemptible_price_micros is not None:
        return instance.preemptible_price_micros
    return instance.price_micros
