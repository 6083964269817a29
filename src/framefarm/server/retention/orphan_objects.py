"""Files of the store that no row speaks of, and logs whose time is over.

Here the store is walked and the database is asked, a page at a time. Ages of files are by the disk's clock. A
file counts as nobody's a day after it was written or touched, seen from when the database was asked: whoever
wrote it has written its row by then, or never will.
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
from framefarm.server.tenancy import farmwide

PAGE = 500
Known = Callable[[Tx, list[Aged]], set[str]]


def known_content(tx: Tx, page: list[Aged]) -> set[str]:
    """Keys of the objects that a row has, condemned or not."""
    shas = sorted({parts[2] for parts in (a.key.split("/") for a in page) if len(parts) == 4})
    query = farmwide(sa.select(contents.c.account_id, contents.c.sha256, contents.c.generation))
    rows = tx.conn.execute(query.where(contents.c.sha256.in_(listed(tx, shas))))
    return {keys.content(*row) for row in rows}


def known_manifests(tx: Tx, page: list[Aged]) -> set[str]:
    shas = sorted({a.key.rpartition("/")[2] for a in page})
    query = farmwide(sa.select(manifests.c.account_id, manifests.c.sha256))
    rows = tx.conn.execute(query.where(manifests.c.sha256.in_(listed(tx, shas))))
    return {keys.manifest(*row) for row in rows}


def _pages(run: RetentionPass, area: str) -> Iterator[list[Aged]]:
    walk = run.context.store.walk(area)
    while page := list(islice(walk, PAGE)):
        run.breathe()
        yield page


def _abandoned(run: RetentionPass, what: str, area: str, known: Known) -> Iterator[Removed]:
    for page in _pages(run, area):
        before_ns = time.time_ns() - ABANDONED_MS * 1_000_000
        rows = run.read(known, page)
        due = [a for a in page if a.key not in rows and a.changed_ns < before_ns]
        if not run.dry:
            due = [a for a in due if run.context.store.remove_older(a.key, before_ns)]
            if area == "content":
                for a in due:
                    run.context.store.prune_folder(a.key)
        yield Removed(what, files=len(due), bytes=sum(a.size for a in due))


def facts_of_logs(tx: Tx, names: list[str], now_ns: int, page: list[Aged]) -> list[Log]:
    """What is known of each log of the page, in its order; `names`: its attempts."""
    query = farmwide(
        sa.select(attempts.c.id, attempts.c.ended_ms, sessions.c.ended, jobs.c.emptied_ms)
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .join(sessions, sessions.c.id == attempts.c.session_id, isouter=True)
    ).where(attempts.c.id.in_(listed(tx, names)))
    rows: dict[str, Any] = {row.id: row for row in tx.conn.execute(query)}
    found = []
    for name, aged in zip(names, page, strict=True):
        age_ms, row = (now_ns - aged.changed_ns) // 1_000_000, rows.get(name)
        if row is None:
            found.append(Log(known=False, age_ms=age_ms))
            continue
        over = row.ended is not False
        found.append(Log(True, age_ms, over, row.emptied_ms is not None, row.ended_ms))
    return found


def collect_logs(run: RetentionPass) -> Iterator[Removed]:
    for page in _pages(run, "logs"):
        names = [a.key.rpartition("/")[2].removesuffix(".log") for a in page]
        facts = run.read(facts_of_logs, names, time.time_ns(), page)
        now_ms = run.context.db.clock_ms()
        due = [a for a, log in zip(page, facts, strict=True) if log_is_due(log, run.keeping, now_ms)]
        if not run.dry:
            for a in due:
                run.context.store.path(a.key).unlink(missing_ok=True)
        yield Removed("logs", files=len(due), bytes=sum(a.size for a in due))


def collect_objects(run: RetentionPass) -> Iterator[Removed]:
    """Objects without rows: of requests that were killed, and of rows that are collected."""
    yield from collect_logs(run)
    yield from _abandoned(run, "manifest_files", "manifests", known_manifests)
    yield from _abandoned(run, "abandoned_content", "content", known_content)
    if not run.dry:
        yield Removed("half_uploads", files=run.context.store.sweep_incoming())


def collect_staging(run: RetentionPass) -> Iterator[Removed]:
    """What `leftovers` does every ten seconds while the farm runs."""
    seen = staging_cleanup.staging_folders(run.context)
    for start in range(0, len(seen), PAGE):
        found = run.read(staging_cleanup.abandoned_folders, seen[start : start + PAGE])
        due = staging_cleanup.removable_files(run.context, found)
        size = sum(path.stat().st_size for path in due if path.exists())
        count = len(due) if run.dry else staging_cleanup.remove(run.context, found)
        yield Removed("staging", files=count, bytes=size)
