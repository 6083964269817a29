"""Ids: a prefix that says what it is, then 26 characters that sort by creation (a ULID in lower case)."""

from __future__ import annotations

from ulid import ULID


def new_id(prefix: str) -> str:
    """A fresh id as `job_01jd…`, from the clock and the system's random source."""
    return f"{prefix}_{str(ULID()).lower()}"
