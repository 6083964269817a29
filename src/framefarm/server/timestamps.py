"""Times at the edge: integer milliseconds inside, RFC 3339 in UTC outside."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

LAST_MS = 253_402_300_799_999
"""The end of the year 9999, the last that RFC 3339 can say."""


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def iso(ms: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds. Long lists have many of one second: that is worded once."""
    if ms is None:
        return None
    seconds, rest = divmod(min(ms, LAST_MS), 1000)
    return f"{_second(seconds)}.{rest:03d}Z"
