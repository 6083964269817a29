"""Removal of expired rows: idempotency keys, tokens, events, webhook deliveries, progress."""

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
from framefarm.server.webhooks import service as webhooks

FARM_WIDE = "Retention removes what is due of all accounts."


@dataclass(frozen=True)
class ExpiryRule:
    """The condition on which rows of one table are removed, by policy and time (`now_ms`)."""

    what: str
    table: sa.Table
    is_due: Callable[[RetentionPolicy, int], sa.ColumnElement[bool]]


def _idempotency_keys_due(_policy: RetentionPolicy, now_ms: int) -> sa.ColumnElement[bool]:
    return idempotency.c.created_ms <= now_ms - IDEMPOTENCY_MS


def _tokens_due(policy: RetentionPolicy, now_ms: int) -> sa.ColumnElement[bool]:
    before = now_ms - policy.tokens_ms
    return (tokens.c.expires_ms < before) | (tokens.c.revoked_ms < before)


RULES = (
    ExpiryRule("idempotency_keys", idempotency, _idempotency_keys_due),
    ExpiryRule("tokens", tokens, _tokens_due),
)


def prune(tx: Tx, rule: ExpiryRule, policy: RetentionPolicy, limit: int) -> int:
    """Remove up to `limit` due rows; returns their number."""
    due, key = rule.is_due(policy, tx.now_ms), sa.tuple_(*rule.table.primary_key)
    page = sa.select(*rule.table.primary_key).where(due).limit(limit)
    return tx.conn.execute(sa.delete(rule.table).where(due, key.in_(page))).rowcount


def count_due(tx: Tx, rule: ExpiryRule, policy: RetentionPolicy) -> int:
    """Number of rows that `prune` would remove in all."""
    query = sa.select(sa.func.count()).select_from(rule.table).where(rule.is_due(policy, tx.now_ms))
    return int(tx.conn.execute(query).scalar_one())


def remove_expired_rows(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove the due rows of each of `RULES`."""
    policy = retention_pass.policy
    for rule in RULES:
        if retention_pass.dry_run:
            yield Removed(rule.what, rows=retention_pass.read(count_due, rule, policy))
            continue

        def step(limit: int, rule: ExpiryRule = rule) -> int:
            return retention_pass.write(prune, rule, policy, limit)

        yield from _repeat(retention_pass, rule.what, step)


def remove_events(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove due events, with their webhook deliveries, and old progress."""
    write, kept_ms = retention_pass.write, retention_pass.policy.events_ms
    if retention_pass.dry_run:
        yield Removed("events", rows=retention_pass.read(events.trimmable, kept_ms))
        yield Removed("webhook_deliveries", rows=retention_pass.read(webhooks.forgettable))
        return
    yield from _repeat(retention_pass, "events", lambda limit: write(events.trim, limit, kept_ms))
    yield from _repeat(retention_pass, "webhook_deliveries", lambda limit: write(webhooks.forget, limit))
    yield Removed("progress", rows=write(progress.forget))


def _repeat(retention_pass: RetentionPass, what: str, step: Callable[[int], int]) -> Iterator[Removed]:
    """Take steps of at most `limit` rows until one removes fewer."""
    while True:
        limit = retention_pass.limit
        rows = step(limit)
        yield Removed(what, rows=rows)
        if rows < limit:
            return
