"""Ids: a prefix for the type of object, then a ULID in lower case, 26 characters that sort by creation."""

from __future__ import annotations

from ulid import ULID


def new_id(prefix: str) -> str:
    """A new id as `job_01jd…`, from the clock and the system's random source."""
    return f"{prefix}_{str(ULID()).lower()}"
