"""Models that several parts of the public API share.

`amount_micros` is in micro-dollars: 1,000,000 of them are one dollar.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of every request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Money(BaseModel):
    amount_micros: int
    currency: str = "USD"


class Page(BaseModel):
    """Base of a page of a list. `next_cursor` opens the next page; null on the last one."""

    next_cursor: str | None
