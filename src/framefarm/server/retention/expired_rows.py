"""Rows whose time is over: idempotency keys, tokens, events, deliveries, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.retention import IDEMPOTENCY_MS, RetentionPolicy
from framefarm.server.accounts.tables import tokens
from framefarm.server.database import Tx
from framefarm.server.events import service as events
from framefarm.server.http.tables import idempotency
from framefarm.server.retention.retention_pass import Removed, RetentionPass
from framefarm.server.sessions import progress
from framefarm.server.tenancy import farmwide
from framefarm.server.webhooks import service as webhooks


@dataclass(frozen=True)
class Kind:
    """Rows of one table, and which of them are due."""

    what: str
    table: sa.Table
    due: Callable[[RetentionPolicy, int], sa.ColumnElement[bool]]


def _keys_over(_keeping: RetentionPolicy, now_ms: int) -> sa.ColumnElement[bool]:
    return idempotency.c.created_ms <= now_ms - IDEMPOTENCY_MS


def _tokens_over(keeping: RetentionPolicy, now_ms: int) -> sa.ColumnElement[bool]:
    before = now_ms - keeping.tokens_ms
    return (tokens.c.expires_ms < before) | (tokens.c.revoked_ms < before)


KINDS = (
    Kind("idempotency_keys", idempotency, _keys_over),
    Kind("tokens", tokens, _tokens_over),
)


def prune(tx: Tx, kind: Kind, keeping: RetentionPolicy, limit: int) -> int:
    """Remove up to `limit` of them; how many."""
    due, key = kind.due(keeping, tx.now_ms), sa.tuple_(*kind.table.primary_key)
    some = sa.select(*kind.table.primary_key).where(due).limit(limit)
    return tx.conn.execute(sa.delete(kind.table).where(due, key.in_(some))).rowcount


def count(tx: Tx, kind: Kind, keeping: RetentionPolicy) -> int:
    query = sa.select(sa.func.count()).select_from(kind.table).where(kind.due(keeping, tx.now_ms))
    return int(tx.conn.execute(farmwide(query)).scalar_one())


def collect_rows(run: RetentionPass) -> Iterator[Removed]:
    for kind in KINDS:
        if run.dry:
            yield Removed(kind.what, rows=run.read(count, kind, run.keeping))
            continue
        yield from _until_done(run, kind.what, lambda limit, k=kind: run.write(prune, k, run.keeping, limit))  # type: ignore[misc]


def collect_events(run: RetentionPass) -> Iterator[Removed]:
    """Deliveries go with their events."""
    kept_ms = run.keeping.events_ms
    if run.dry:
        yield Removed("events", rows=run.read(events.trimmable, kept_ms))
        yield Removed("webhook_deliveries", rows=run.read(webhooks.forgettable))
        return
    yield from _until_done(run, "events", lambda limit: run.write(events.trim, limit, kept_ms))
    yield from _until_done(run, "webhook_deliveries", lambda limit: run.write(webhooks.forget, limit))
    yield Removed("progress", rows=run.write(progress.forget))


def _until_done(run: RetentionPass, what: str, step: Callable[[int], int]) -> Iterator[Removed]:
    while True:
        limit = run.limit
        rows = step(limit)
        yield Removed(what, rows=rows)
        if rows < limit:
            return
