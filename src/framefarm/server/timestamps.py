"""Times in answers: RFC 3339 in UTC, from the integer milliseconds used inside."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the last that RFC 3339 can express."""


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def iso(ms: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds. The text of a second is cached, as long lists repeat it."""
    if ms is None:
        return None
    seconds, rest = divmod(min(ms, LAST_MS), 1000)
    return f"{_second(seconds)}.{rest:03d}Z"
