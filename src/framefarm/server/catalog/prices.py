"""Price of a slot: micro-dollars per hour, by instance type and market.

The dispatcher fixes a session's price when it starts the session; the session's attempts are billed at it.
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
