"""One retention pass: its policy, its proof of leadership, and how many rows a unit of work may touch."""

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
FIRST_LIMIT, MIN_LIMIT, MAX_LIMIT = 100, 10, 2000
LONG_SECONDS = 0.02
"""Duration above which the next unit of work is halved: other writers then never wait for 50 ms."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows, files and bytes that one step removed, or in a dry run would remove.

    `what`: name of these rows or files in answers, logs and metrics, such as `content`.
    """

    what: str
    rows: int = 0
    files: int = 0
    bytes: int = 0


class Stopped(Exception):
    """The farm stops: the next start removes the rest."""


@dataclass
class RetentionPass:
    """Runs the units of work of one pass. `require_lead` raises NotLeader once another process leads."""

    context: AppContext
    policy: RetentionPolicy
    require_lead: Callable[[Tx], None]
    dry_run: bool = False
    limit: int = FIRST_LIMIT
    """Rows that the next unit of work may touch."""

    def write(self, work: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a transaction of its own and adapt `limit`; blocks. Raises Stopped and NotLeader."""

        def unit(tx: Tx) -> T:
            self.require_lead(tx)
            began = time.perf_counter()
            result = work(tx, *args, **kwargs)
            self.adapt_limit(time.perf_counter() - began)
            return result

        self.check_stopping()
        return self.context.db.write_now(unit)

    def read(self, work: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a transaction that only reads; blocks. Raises Stopped."""
        self.check_stopping()
        return self.context.db.read_now(work, *args, **kwargs)

    def check_stopping(self) -> None:
        """Raises Stopped once the farm stops."""
        if self.context.draining:
            raise Stopped

    def adapt_limit(self, seconds: float) -> None:
        """Halve `limit` after a long unit of work, raise it by a quarter after a short one."""
        if seconds > LONG_SECONDS:
            self.limit = max(MIN_LIMIT, self.limit // 2)
        elif seconds < LONG_SECONDS / 2:
            self.limit = min(MAX_LIMIT, self.limit + self.limit // 4)


def policy_of(settings: Settings) -> RetentionPolicy:
    """The retention times of the settings, in milliseconds."""
    days = settings.jobs_kept_days
    return RetentionPolicy(
        unclaimed_ms=round(settings.content_kept_days * DAY_MS),
        condemned_ms=round(settings.condemned_kept_hours * HOUR_MS),
        logs_ms=round(settings.logs_kept_days * DAY_MS),
        tokens_ms=round(settings.tokens_kept_days * DAY_MS),
        events_ms=round(settings.events_kept_days * DAY_MS),
        jobs_ms=None if days is None else round(days * DAY_MS),
    )
