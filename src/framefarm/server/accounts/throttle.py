"""Slowing down guessed passwords: from the sixth failure within 15 minutes on, per (email, address) and per
address. An email alone is never locked: nobody can lock out somebody else."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from framefarm.core.errors import TooMany

FREE_FAILURES = 5


class Throttle:
    """In this process's memory: a restart forgives."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._both = RateLimitItemPerMinute(FREE_FAILURES, 15)
        self._address = RateLimitItemPerMinute(FREE_FAILURES * 10, 15)

    def check(self, email: str, address: str) -> None:
        """Raises TooMany with the seconds to wait."""
        for item, key in ((self._both, (email, address)), (self._address, (address,))):
            if not self._limiter.test(item, *key):
                reset = self._limiter.get_window_stats(item, *key).reset_time
                wait = max(1, math.ceil(reset - time.time()))
                raise TooMany("Too many failed logins; try again later.", wait)

    def failed(self, email: str, address: str) -> None:
        self._limiter.hit(self._both, email, address)
        self._limiter.hit(self._address, address)
