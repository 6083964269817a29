"""How far `events` may be read: rows in the order of their ids, and never past one that commits late.

On PostgreSQL a lower id may commit after a higher one. A reader stops at a gap, notes the highest id that it
sees and a transaction number newer than all that were begun, and goes on once every older transaction has
ended: what was in the gap is then there, or never will be. A writer of events has its transaction number
before it takes an id, because it locks or inserts its job's row first (`jobs.state.lock`). Rows that follow
one another without a gap are passed on at once. SQLite has one writer: its rows are always in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from framefarm.server.database import Tx
from framefarm.server.jobs.tables import events
from framefarm.server.tenancy import farmwide

READ_AT_ONCE = 1000
_OLDEST_RUNNING = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
_NEWEST_BEGUN = sa.text("SELECT pg_current_xact_id()::text::bigint")


@dataclass(frozen=True, slots=True)
class Horizon:
    """`position`: every row up to it was passed on, or never will be there. None: not known yet."""

    position: int | None = None
    seen: int = 0
    """The highest id seen beyond the gap …"""
    transaction: int | None = None
    """… which is closed once all transactions before this one have ended. None: no gap is known."""


@dataclass(frozen=True, slots=True)
class Read:
    """Rows beyond the position as one look at the database found them, lowest id first."""

    rows: list[Any]
    oldest_running: int | None = None
    """Transactions before this number have ended. None: rows are always in order."""
    newest_begun: int | None = None
    """Larger than the number of every transaction that could still fill a gap between `rows`."""


def look(tx: Tx, horizon: Horizon) -> Read:
    """Read on from the horizon; for its first position only the highest id."""
    ordered = tx.conn.dialect.name == "sqlite"
    # First the oldest transaction, then the rows: all that ended before is then among them.
    oldest = None if ordered else tx.conn.execute(_OLDEST_RUNNING).scalar_one()
    query = farmwide(sa.select(events))
    if horizon.position is None:
        query = query.order_by(events.c.id.desc()).limit(1)
    else:
        query = query.where(events.c.id > horizon.position).order_by(events.c.id).limit(READ_AT_ONCE)
    rows = list(tx.conn.execute(query).mappings())
    if ordered:
        return Read(rows)
    if horizon.position is not None and _in_order(horizon.position, rows):
        return Read(rows, oldest)
    return Read(rows, oldest, tx.conn.execute(_NEWEST_BEGUN).scalar_one())


def _in_order(position: int, rows: list[Any]) -> bool:
    return not rows or rows[-1]["id"] == position + len(rows)


def advance(horizon: Horizon, read: Read) -> tuple[Horizon, list[Any]]:
    """The horizon after a look, and the rows to pass on, in the order of their ids."""
    closed = (
        horizon.transaction is not None
        and read.oldest_running is not None
        and read.oldest_running >= horizon.transaction
    )
    if horizon.position is None:
        return _first(horizon, read, closed), []
    position, ready = horizon.position, []
    for row in read.rows:
        in_order = row["id"] == position + 1 or read.oldest_running is None
        if not in_order and not (closed and row["id"] <= horizon.seen):
            break
        ready.append(row)
        position = row["id"]
    if closed:
        position = max(position, horizon.seen)
        horizon = Horizon(position)
    elif position >= horizon.seen:
        horizon = Horizon(position)  # the gap was filled
    left = read.rows[len(ready) :]
    if left and horizon.transaction is None:
        return Horizon(position, left[-1]["id"], read.newest_begun), ready
    return replace(horizon, position=position), ready


def _first(horizon: Horizon, read: Read, closed: bool) -> Horizon:
    newest = read.rows[-1]["id"] if read.rows else 0
    if read.oldest_running is None:
        return Horizon(newest)
    if horizon.transaction is None:
        return Horizon(None, newest, read.newest_begun)
    return Horizon(horizon.seen) if closed else horizon
