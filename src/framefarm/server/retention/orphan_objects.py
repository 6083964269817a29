"""Removal of stored objects without a row, and of old logs.

A walk compares the store with the database, a page at a time. An object without a row is removed once
`ABANDONED_MS` have passed between its last write or touch, by the disk's clock, and the database query: any
request that would write its row has ended by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa

from framefarm.core.retention import ABANDONED_MS, Log, log_is_due
from framefarm.server.database import Tx
from framefarm.server.files.manifests import listed
from framefarm.server.files.tables import contents, manifests
from framefarm.server.jobs.tables import jobs
from framefarm.server.outputs import staging_cleanup
from framefarm.server.retention.retention_pass import Removed, RetentionPass
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.storage import keys
from framefarm.server.storage.local import Aged

FARM_WIDE = "Retention looks for objects that no account uses."
PAGE = 500
Known = Callable[[Tx, list[Aged]], set[str]]


def known_content(tx: Tx, page: list[Aged]) -> set[str]:
    """Keys of the content objects of this page that have a row, condemned or not."""
    shas = sorted({parts[2] for parts in (a.key.split("/") for a in page) if len(parts) == 4})
    query = sa.select(contents.c.account_id, contents.c.sha256, contents.c.generation)
    rows = tx.conn.execute(query.where(contents.c.sha256.in_(listed(tx, shas))))
    return {keys.content(*row) for row in rows}


def known_manifests(tx: Tx, page: list[Aged]) -> set[str]:
    """Keys of the manifest objects of this page that have a row."""
    shas = sorted({a.key.rpartition("/")[2] for a in page})
    query = sa.select(manifests.c.account_id, manifests.c.sha256)
    rows = tx.conn.execute(query.where(manifests.c.sha256.in_(listed(tx, shas))))
    return {keys.manifest(*row) for row in rows}


def _pages(retention_pass: RetentionPass, area: str) -> Iterator[list[Aged]]:
    walk = retention_pass.context.store.walk(area)
    while page := list(islice(walk, PAGE)):
        retention_pass.check_stopping()
        yield page


def _remove_unknown(retention_pass: RetentionPass, what: str, area: str, known: Known) -> Iterator[Removed]:
    for page in _pages(retention_pass, area):
        before_ns = time.time_ns() - ABANDONED_MS * 1_000_000
        known_keys = retention_pass.read(known, page)
        due = [a for a in page if a.key not in known_keys and a.changed_ns < before_ns]
        if not retention_pass.dry_run:
            due = [a for a in due if retention_pass.context.store.remove_older(a.key, before_ns)]
            if area == "content":
                for a in due:
                    retention_pass.context.store.prune_folder(a.key)
        yield Removed(what, files=len(due), bytes=sum(a.size for a in due))


def facts_of_logs(tx: Tx, attempt_ids: list[str], now_ns: int, page: list[Aged]) -> list[Log]:
    """Facts of each log of the page, in its order. `attempt_ids`: the attempt of each log."""
    query = (
        sa.select(attempts.c.id, attempts.c.ended_ms, sessions.c.ended, jobs.c.emptied_ms)
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .join(sessions, sessions.c.id == attempts.c.session_id, isouter=True)
    ).where(attempts.c.id.in_(listed(tx, attempt_ids)))
    rows: dict[str, Any] = {row.id: row for row in tx.conn.execute(query)}
    logs = []
    for attempt_id, aged in zip(attempt_ids, page, strict=True):
        age_ms, row = (now_ns - aged.changed_ns) // 1_000_000, rows.get(attempt_id)
        if row is None:
            logs.append(Log(known=False, age_ms=age_ms))
            continue
        session_over = row.ended is not False
        logs.append(Log(True, age_ms, session_over, row.emptied_ms is not None, row.ended_ms))
    return logs


def remove_logs(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove the logs that are due, by `core.retention.log_is_due`."""
    for page in _pages(retention_pass, "logs"):
        attempt_ids = [a.key.rpartition("/")[2].removesuffix(".log") for a in page]
        facts = retention_pass.read(facts_of_logs, attempt_ids, time.time_ns(), page)
        now_ms = retention_pass.context.db.clock_ms()
        due = [
            a for a, log in zip(page, facts, strict=True) if log_is_due(log, retention_pass.policy, now_ms)
        ]
        if not retention_pass.dry_run:
            for a in due:
                retention_pass.context.store.path(a.key).unlink(missing_ok=True)
        yield Removed("logs", files=len(due), bytes=sum(a.size for a in due))


def remove_orphans(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove logs that are due, orphaned manifests and content, and unfinished uploads."""
    yield from remove_logs(retention_pass)
    yield from _remove_unknown(retention_pass, "manifest_files", "manifests", known_manifests)
    yield from _remove_unknown(retention_pass, "abandoned_content", "content", known_content)
    if not retention_pass.dry_run:
        yield Removed("half_uploads", files=retention_pass.context.store.sweep_incoming())


def remove_abandoned_staging(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove abandoned files from staging, as `outputs.staging_cleanup` does while the farm runs."""
    folders = staging_cleanup.staging_folders(retention_pass.context)
    for start in range(0, len(folders), PAGE):
        abandoned = retention_pass.read(staging_cleanup.abandoned_folders, folders[start : start + PAGE])
        due = staging_cleanup.removable_files(retention_pass.context, abandoned)
        size = sum(path.stat().st_size for path in due if path.exists())
        if not retention_pass.dry_run:
            staging_cleanup.remove(retention_pass.context, abandoned)
        yield Removed("staging", files=len(due), bytes=size)
