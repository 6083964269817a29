"""Pages of `events` for streams, webhooks and mails; starts of streams; the trim after seven days."""

from __future__ import annotations

from typing import Literal

import msgspec
import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.events.tables import reader_positions
from framefarm.server.jobs.tables import events, job_state, jobs
from framefarm.server.json_types import Answer, Json
from framefarm.server.rows import EventRow
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso

KEPT_MS = 7 * 24 * 3_600_000
TRIMMED = "trimmed"
"""Name of the position below which events were removed."""
StreamKind = Literal["job", "account"]


def shape(row: EventRow) -> Answer:
    """An event as streams and webhooks send it (docs/events.md)."""
    return {
        "job": row.job_id,
        "number": row.number,
        "at": iso(row.at_ms),
        "type": row.type,
        "actor": row.actor,
        "data": row.data,
    }


def encode(row: EventRow, kind: StreamKind) -> bytes:
    """An event as a server-sent event."""
    return b"id: %d\ndata: %b\n\n" % (stream_id(row, kind), msgspec.json.encode(shape(row)))


def stream_id(row: EventRow, kind: StreamKind) -> int:
    """The event's id within a stream: its number in a job's stream, the row's id in an account's."""
    return row.number if kind == "job" else row.id


def dumps(value: Json) -> str:
    """Compact JSON of any value."""
    return msgspec.json.encode(value).decode()


def last_event_id(text: str | None) -> int | None:
    """Number in a `Last-Event-ID` header; None for an absent or empty one, and for 0. Raises InvalidInput."""
    if text is None or not text.strip():
        return None
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise InvalidInput.of("Last-Event-ID", "must be the id of an event of this stream", text[:100])
    return int(digits) or None


def begin_job(tx: Tx, actor: Actor, job_id: str, seen: int | None) -> tuple[int, str | None]:
    """(event number after which the job's stream begins, reason of a reset or None). Raises NotFound.

    `seen`: the number that the client received last.
    """
    query = scoped(sa.select(job_state.c.event_number), jobs, actor.account_id).join(
        jobs, jobs.c.id == job_state.c.job_id
    )
    query = query.where(jobs.c.id == job_id, jobs.c.deleted_ms.is_(None))
    newest_number = tx.conn.execute(query).scalar_one_or_none()
    if newest_number is None:
        raise NotFound(f"There is no job {job_id}.")
    first = farmwide(sa.select(sa.func.min(events.c.number))).where(events.c.job_id == job_id)
    oldest = tx.conn.execute(first).scalar_one() or newest_number + 1
    start = seen or 0
    if start > newest_number:
        return oldest - 1, "unknown"
    return (oldest - 1, "not_kept") if start + 1 < oldest else (start, None)


def begin_account(tx: Tx, seen: int | None, read: int) -> tuple[int, str | None]:
    """(event id after which the account's stream begins, reason of a reset or None).

    `seen`: the id that the client received last. `read`: the horizon of this process; the process that the
    client followed before may have been a little further.
    """
    if seen is None:
        return read, None
    if seen > max(read, newest(tx)):
        return read, "unknown"
    trimmed = position(tx, TRIMMED)
    return (trimmed, "not_kept") if seen < trimmed else (seen, None)


def job_page(tx: Tx, job_id: str, after: int, limit: int) -> list[EventRow]:
    """Events of a job after a number. They are written under the job's lock, so none commits late."""
    query = farmwide(sa.select(events)).where(events.c.job_id == job_id, events.c.number > after)
    return tx.rows(EventRow, query.order_by(events.c.number).limit(limit))


def account_page(tx: Tx, account_id: str, after: int, up_to: int, limit: int) -> list[EventRow]:
    """Events of an account with ids after `after`, up to `up_to` (the commit horizon)."""
    query = scoped(sa.select(events), events, account_id).where(events.c.id > after, events.c.id <= up_to)
    return tx.rows(EventRow, query.order_by(events.c.id).limit(limit))


def page_of_type(tx: Tx, event_type: str, after: int, up_to: int, limit: int) -> list[EventRow]:
    """Events of one type and all accounts with ids after `after`, up to `up_to`."""
    query = farmwide(sa.select(events)).where(
        events.c.id > after, events.c.id <= up_to, events.c.type == event_type
    )
    return tx.rows(EventRow, query.order_by(events.c.id).limit(limit))


def by_ids(tx: Tx, ids: list[int]) -> dict[int, EventRow]:
    """Events by id, as far as they still exist."""
    query = farmwide(sa.select(events)).where(events.c.id.in_(ids))
    return {row.id: row for row in tx.rows(EventRow, query)}


def newest(tx: Tx) -> int:
    """Highest event id, 0 if there is none."""
    return int(tx.conn.execute(farmwide(sa.select(sa.func.max(events.c.id)))).scalar_one() or 0)


# ------------------------------------------------------------------------------ positions


def position(tx: Tx, name: str) -> int:
    """Id of the last event that the named reader has handled; 0 at first."""
    query = sa.select(reader_positions.c.position).where(reader_positions.c.name == name)
    return int(tx.conn.execute(query).scalar_one_or_none() or 0)


def move(tx: Tx, name: str, to: int) -> None:
    """Set the position of the named reader."""
    statement = sa.update(reader_positions).where(reader_positions.c.name == name)
    if not tx.conn.execute(statement.values(position=to)).rowcount:
        tx.conn.execute(sa.insert(reader_positions).values(name=name, position=to))


def trimmable(tx: Tx, kept_ms: int = KEPT_MS) -> int:
    """Number of events that `trim` would remove in all."""
    query = farmwide(sa.select(sa.func.count()).select_from(events))
    return int(tx.conn.execute(query.where(events.c.at_ms < tx.now_ms - kept_ms)).scalar_one())


def trim(tx: Tx, limit: int, kept_ms: int = KEPT_MS) -> int:
    """Remove events older than `kept_ms`, at most `limit`, oldest first; returns how many.

    The newest event stays: SQLite derives the next id from it.
    """
    oldest = farmwide(sa.select(events.c.id, events.c.at_ms)).order_by(events.c.id).limit(limit + 1)
    rows = tx.conn.execute(oldest).all()
    last = 0
    count = 0
    for row in rows[: min(limit, len(rows) - 1)]:
        if row.at_ms >= tx.now_ms - kept_ms:
            break
        last, count = row.id, count + 1
    if count:
        tx.conn.execute(farmwide(sa.delete(events)).where(events.c.id <= last))
        move(tx, TRIMMED, last)
    return count
