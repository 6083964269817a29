"""Limits of failed logins, against guessed passwords: 5 in 15 minutes for an email from one address, and 50
for one address. An email is never limited alone, so that a stranger cannot lock a user out."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from framefarm.core.errors import TooMany

FREE_FAILURES = 5


class Throttle:
    """Failed logins, counted in this process's memory: a restart forgets them."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._email_and_address = RateLimitItemPerMinute(FREE_FAILURES, 15)
        self._address = RateLimitItemPerMinute(FREE_FAILURES * 10, 15)

    def check(self, email: str, address: str) -> None:
        """Check before a login that it may be tried. Raises TooMany with the seconds to wait."""
        for item, key in ((self._email_and_address, (email, address)), (self._address, (address,))):
            if not self._limiter.test(item, *key):
                reset = self._limiter.get_window_stats(item, *key).reset_time
                wait = max(1, math.ceil(reset - time.time()))
                raise TooMany("Too many failed logins; try again later.", wait)

    def failed(self, email: str, address: str) -> None:
        """Count a failed login."""
        self._limiter.hit(self._email_and_address, email, address)
        self._limiter.hit(self._address, address)
