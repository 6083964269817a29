"""What a run of the collector carries: its terms, the lead, and how much it may do at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from framefarm.core.retention import DAY_MS, HOUR_MS, RetentionPolicy
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
FIRST_LIMIT, LEAST, MOST = 100, 10, 2000
LONG_SECONDS = 0.02
"""A unit of work that takes longer is halved the next time: the writer is never blocked for 50 ms."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a step has removed, or in a dry run what would go. `what` is a kind's name."""

    what: str
    rows: int = 0
    files: int = 0
    bytes: int = 0


class Stopped(Exception):
    """The farm stops: what is left is for the next start."""


@dataclass
class RetentionPass:
    """One pass. `require_lead` raises in a transaction of whoever leads no more."""

    context: AppContext
    keeping: RetentionPolicy
    require_lead: Callable[[Tx], None]
    dry: bool = False
    limit: int = FIRST_LIMIT
    """Rows that the next unit of work may touch."""

    def write(self, work: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` as a unit of its own, timed. Raises Stopped."""

        def unit(tx: Tx) -> T:
            self.require_lead(tx)
            began = time.perf_counter()
            result = work(tx, *args, **kwargs)
            self.took(time.perf_counter() - began)
            return result

        self.breathe()
        return self.context.db.write_now(unit)

    def read(self, work: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.breathe()
        return self.context.db.read_now(work, *args, **kwargs)

    def breathe(self) -> None:
        if self.context.draining:
            raise Stopped

    def took(self, seconds: float) -> None:
        """Learn from how long a unit took."""
        if seconds > LONG_SECONDS:
            self.limit = max(LEAST, self.limit // 2)
        elif seconds < LONG_SECONDS / 2:
            self.limit = min(MOST, self.limit + self.limit // 4)


def keeping_of(settings: Settings) -> RetentionPolicy:
    days = settings.jobs_kept_days
    return RetentionPolicy(
        unclaimed_ms=round(settings.content_kept_days * DAY_MS),
        condemned_ms=round(settings.condemned_kept_hours * HOUR_MS),
        logs_ms=round(settings.logs_kept_days * DAY_MS),
        tokens_ms=round(settings.tokens_kept_days * DAY_MS),
        events_ms=round(settings.events_kept_days * DAY_MS),
        jobs_ms=None if days is None else round(days * DAY_MS),
    )
