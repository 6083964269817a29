"""Reading `events` for streams, where each stream begins, and the trim after seven days."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.events.tables import reader_positions
from framefarm.server.jobs.tables import events, job_state, jobs
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso

KEPT_MS = 7 * 24 * 3_600_000
TRIMMED = "trimmed"
Kind = Literal["job", "account"]


def shape(row: Any) -> dict[str, Any]:
    """An event as streams and webhooks show it."""
    return {
        "job": row["job_id"],
        "number": row["number"],
        "at": iso(row["at_ms"]),
        "type": row["type"],
        "actor": row["actor"],
        "data": row["data"],
    }


def encode(row: Any, kind: Kind) -> bytes:
    """An event in the stream's own form. Its id is the event's number in the job, or its place in all."""
    place = row["number"] if kind == "job" else row["id"]
    return b"id: %d\ndata: %b\n\n" % (place, msgspec.json.encode(shape(row)))


def dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def last_event_id(text: str | None) -> int | None:
    """What a client has seen last; None where it says nothing, or 0. Raises InvalidInput."""
    if text is None or not text.strip():
        return None
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise InvalidInput.of("Last-Event-ID", "must be the id of an event of this stream", text[:100])
    return int(digits) or None


def begin_job(tx: Tx, actor: Actor, job_id: str, seen: int | None) -> tuple[int, str | None]:
    """(number after which the job's stream begins, why it is a reset). Raises NotFound."""
    mine = scoped(sa.select(job_state.c.event_number), jobs, actor.account_id).join(
        jobs, jobs.c.id == job_state.c.job_id
    )
    newest = tx.conn.execute(
        mine.where(jobs.c.id == job_id, jobs.c.deleted_ms.is_(None))
    ).scalar_one_or_none()
    if newest is None:
        raise NotFound(f"There is no job {job_id}.")
    first = farmwide(sa.select(sa.func.min(events.c.number))).where(events.c.job_id == job_id)
    oldest = tx.conn.execute(first).scalar_one() or newest + 1
    start = seen or 0
    if start > newest:
        return oldest - 1, "unknown"
    return (oldest - 1, "not_kept") if start + 1 < oldest else (start, None)


def begin_account(tx: Tx, seen: int | None, read: int) -> tuple[int, str | None]:
    """(id after which the account's stream begins, why it is a reset). `read`: how far this process is;
    another one may have been a little further."""
    if seen is None:
        return read, None
    if seen > max(read, newest(tx)):
        return read, "unknown"
    trimmed = position(tx, TRIMMED)
    return (trimmed, "not_kept") if seen < trimmed else (seen, None)


def job_page(tx: Tx, job_id: str, after: int, limit: int) -> list[Any]:
    """A job's events after a number. The job's row is locked when they are written: none commits late."""
    query = farmwide(sa.select(events)).where(events.c.job_id == job_id, events.c.number > after)
    return list(tx.conn.execute(query.order_by(events.c.number).limit(limit)).mappings())


def account_page(tx: Tx, account_id: str, after: int, up_to: int, limit: int) -> list[Any]:
    """An account's events after an id, up to the horizon."""
    query = scoped(sa.select(events), events, account_id).where(events.c.id > after, events.c.id <= up_to)
    return list(tx.conn.execute(query.order_by(events.c.id).limit(limit)).mappings())


def page_of_type(tx: Tx, kind: str, after: int, up_to: int, limit: int) -> list[Any]:
    """Events of one type, of all accounts, after an id."""
    query = farmwide(sa.select(events)).where(
        events.c.id > after, events.c.id <= up_to, events.c.type == kind
    )
    return list(tx.conn.execute(query.order_by(events.c.id).limit(limit)).mappings())


def by_ids(tx: Tx, ids: list[int]) -> dict[int, Any]:
    query = farmwide(sa.select(events)).where(events.c.id.in_(ids))
    return {row["id"]: row for row in tx.conn.execute(query).mappings()}


def newest(tx: Tx) -> int:
    return int(tx.conn.execute(farmwide(sa.select(sa.func.max(events.c.id)))).scalar_one() or 0)


# ------------------------------------------------------------------------------ positions


def position(tx: Tx, name: str) -> int:
    """How far the reader of that name is; 0 at first."""
    query = sa.select(reader_positions.c.position).where(reader_positions.c.name == name)
    return int(tx.conn.execute(query).scalar_one_or_none() or 0)


def move(tx: Tx, name: str, to: int) -> None:
    mine = reader_positions.c.name == name
    if not tx.conn.execute(sa.update(reader_positions).where(mine).values(position=to)).rowcount:
        tx.conn.execute(sa.insert(reader_positions).values(name=name, position=to))


def trimmable(tx: Tx, kept_ms: int = KEPT_MS) -> int:
    """How many events `trim` would remove in the end."""
    query = farmwide(sa.select(sa.func.count()).select_from(events))
    return int(tx.conn.execute(query.where(events.c.at_ms < tx.now_ms - kept_ms)).scalar_one())


def trim(tx: Tx, limit: int, kept_ms: int = KEPT_MS) -> int:
    """Remove at most `limit` of the oldest events if they are that old; returns how many.

    The newest one stays: on SQLite the next id counts on from it.
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
