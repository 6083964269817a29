"""Commit horizon: the last event id below which no transaction can still write.

On PostgreSQL a lower id may commit after a higher one. A reader therefore stops at a gap in the ids. It keeps
the highest id it sees and a transaction number newer than all that have begun, and continues once every older
transaction has ended: the missing rows are then visible, or were rolled back. A writer of events has its
transaction number before it takes an id, because it locks or inserts its job's row first (`jobs.state.lock`).
Rows without a gap are passed on at once. SQLite has one writer, so its rows are always in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from framefarm.server.database import Tx
from framefarm.server.jobs.tables import events
from framefarm.server.rows import EventRow
from framefarm.server.tenancy import farmwide

READ_AT_ONCE = 1000
_OLDEST_RUNNING = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
_NEWEST_BEGUN = sa.text("SELECT pg_current_xact_id()::text::bigint")


@dataclass(frozen=True, slots=True)
class Horizon:
    """Position of a reader, and the gap that it waits for."""

    position: int | None = None
    """Every row up to this id was passed on, or was rolled back. None: not known yet."""
    seen: int = 0
    """Highest id seen beyond the gap."""
    transaction: int | None = None
    """The gap is closed once all transactions below this number have ended. None: no gap is known."""


@dataclass(frozen=True, slots=True)
class Read:
    """Rows beyond the position, as one transaction read them, lowest id first."""

    rows: list[EventRow]
    oldest_running: int | None = None
    """Transactions below this number have ended. None: rows are always in order."""
    newest_begun: int | None = None
    """A number above that of every transaction that could still fill a gap in `rows`."""


def read_events(tx: Tx, horizon: Horizon) -> Read:
    """Read the next events beyond the horizon; only the newest one while its position is unknown."""
    ordered = tx.conn.dialect.name == "sqlite"
    # The oldest transaction first, then the rows: these include all that was committed before it.
    oldest = None if ordered else tx.conn.execute(_OLDEST_RUNNING).scalar_one()
    query = farmwide(sa.select(events))
    if horizon.position is None:
        query = query.order_by(events.c.id.desc()).limit(1)
    else:
        query = query.where(events.c.id > horizon.position).order_by(events.c.id).limit(READ_AT_ONCE)
    rows = tx.rows(EventRow, query)
    if ordered:
        return Read(rows)
    if horizon.position is not None and _in_order(horizon.position, rows):
        return Read(rows, oldest)
    return Read(rows, oldest, tx.conn.execute(_NEWEST_BEGUN).scalar_one())


def _in_order(position: int, rows: list[EventRow]) -> bool:
    return not rows or rows[-1].id == position + len(rows)


def advance(horizon: Horizon, read: Read) -> tuple[Horizon, list[EventRow]]:
    """The horizon after a read, and the rows to pass on, lowest id first."""
    closed = (
        horizon.transaction is not None
        and read.oldest_running is not None
        and read.oldest_running >= horizon.transaction
    )
    if horizon.position is None:
        return _first(horizon, read, closed), []
    position = horizon.position
    ready: list[EventRow] = []
    for row in read.rows:
        in_order = row.id == position + 1 or read.oldest_running is None
        if not in_order and not (closed and row.id <= horizon.seen):
            break
        ready.append(row)
        position = row.id
    if closed:
        position = max(position, horizon.seen)
        horizon = Horizon(position)
    elif position >= horizon.seen:
        horizon = Horizon(position)  # the gap was filled
    beyond = read.rows[len(ready) :]
    if beyond and horizon.transaction is None:
        return Horizon(position, beyond[-1].id, read.newest_begun), ready
    return replace(horizon, position=position), ready


def _first(horizon: Horizon, read: Read, closed: bool) -> Horizon:
    newest = read.rows[-1].id if read.rows else 0
    if read.oldest_running is None:
        return Horizon(newest)
    if horizon.transaction is None:
        return Horizon(None, newest, read.newest_begun)
    return Horizon(horizon.seen) if closed else horizon
