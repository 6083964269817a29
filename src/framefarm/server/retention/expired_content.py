"""Manifests that no job has, content that no manifest has, and the bytes of content that is condemned.

A row goes after what hangs on it: whoever is killed in between leaves a row that is found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from framefarm.core.retention import UNUSED_MS, RetentionPolicy
from framefarm.server.database import Tx
from framefarm.server.files.manifests import listed
from framefarm.server.files.tables import (
    contents,
    manifest_contents,
    manifests,
    missing_paths,
    registrations,
)
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.retention.retention_pass import Removed, RetentionPass
from framefarm.server.storage import keys
from framefarm.server.tenancy import farmwide, scoped

PAGE = 1000
FILES_AT_ONCE = 20


# ------------------------------------------------------------------------------ manifests


def _unused(now_ms: int) -> sa.ColumnElement[bool]:
    """No job that is not emptied has the manifest, and none takes it now."""
    has = farmwide(sa.select(jobs.c.id)).where(
        jobs.c.account_id == manifests.c.account_id,
        jobs.c.manifest_sha256 == manifests.c.sha256,
        jobs.c.emptied_ms.is_(None),
    )
    return (manifests.c.created_ms < now_ms - UNUSED_MS) & ~sa.exists(has)


def unused_manifests(tx: Tx, after: tuple[str, str]) -> list[Any]:
    key = sa.tuple_(manifests.c.account_id, manifests.c.sha256)
    query = farmwide(sa.select(manifests)).where(_unused(tx.now_ms), key > after)
    order = (manifests.c.account_id, manifests.c.sha256)
    return list(tx.conn.execute(query.order_by(*order).limit(PAGE)).mappings())


def forget_manifest(tx: Tx, account_id: str, sha256: str, limit: int) -> tuple[int, bool]:
    """Remove up to `limit` of its references, and with the last one its row: (rows, whether it is done).

    A submission that takes it again locks the row, and writes all references anew.
    """
    mine = (manifests.c.account_id == account_id) & (manifests.c.sha256 == sha256)
    query = farmwide(sa.select(manifests.c.sha256)).where(mine, _unused(tx.now_ms))
    if tx.conn.execute(query.with_for_update(skip_locked=True)).first() is None:
        return 0, True
    c = manifest_contents.c
    hang = (c.account_id == account_id) & (c.manifest_sha256 == sha256)
    some = farmwide(sa.select(c.content_sha256)).where(hang).limit(limit)
    change = farmwide(sa.delete(manifest_contents)).where(hang, c.content_sha256.in_(some))
    count = tx.conn.execute(change).rowcount
    if count >= limit:
        return count, False
    return count + tx.conn.execute(farmwide(sa.delete(manifests)).where(mine)).rowcount, True


def collect_manifests(run: RetentionPass) -> Iterator[Removed]:
    after = ("", "")
    while rows := run.read(unused_manifests, after):
        after = (rows[-1]["account_id"], rows[-1]["sha256"])
        if run.dry:
            yield Removed("manifests", rows=len(rows))
            continue
        for row in rows:
            done = False
            while not done:
                count, done = run.write(forget_manifest, row["account_id"], row["sha256"], run.limit)
                yield Removed("manifests", rows=count)


# ------------------------------------------------------------------------------ content


def unwanted(keeping: RetentionPolicy, now_ms: int) -> sa.ColumnElement[bool]:
    """`core.retention.content_fate` says "condemn", as a condition on `contents`."""
    referred = farmwide(sa.select(manifest_contents.c.content_sha256)).where(
        manifest_contents.c.account_id == contents.c.account_id,
        manifest_contents.c.content_sha256 == contents.c.sha256,
    )
    waits = job_state.c.cancel_ms.is_(None) & job_state.c.failed_cause.is_(None)
    awaited = farmwide(
        sa.select(registrations.c.sha256)
        .join(missing_paths, missing_paths.c.user_id == registrations.c.user_id)
        .join(job_state, job_state.c.job_id == missing_paths.c.job_id)
    ).where(
        registrations.c.account_id == contents.c.account_id,
        registrations.c.sha256 == contents.c.sha256,
        waits,
    )
    old = contents.c.last_claimed_ms < now_ms - keeping.unclaimed_ms
    return contents.c.condemned_ms.is_(None) & old & ~sa.exists(referred) & ~sa.exists(awaited)


def to_condemn(tx: Tx, keeping: RetentionPolicy, after: tuple[str, str]) -> list[Any]:
    key = sa.tuple_(contents.c.account_id, contents.c.sha256)
    query = farmwide(sa.select(contents)).where(unwanted(keeping, tx.now_ms), key > after)
    order = (contents.c.account_id, contents.c.sha256)
    return list(tx.conn.execute(query.order_by(*order).limit(PAGE)).mappings())


def condemn(tx: Tx, keeping: RetentionPolicy, account_id: str, sha256s: list[str]) -> int:
    """Those of them that nobody wants (still) do not exist from now on; how many.

    What somebody claims at this moment is locked, and left alone.
    """
    query = scoped(sa.select(contents.c.sha256), contents, account_id).where(
        contents.c.sha256.in_(listed(tx, sha256s)), unwanted(keeping, tx.now_ms)
    )
    due = tx.conn.execute(query.with_for_update(of=contents, skip_locked=True)).scalars().all()
    change = scoped(sa.update(contents), contents, account_id).where(contents.c.sha256.in_(listed(tx, due)))
    return tx.conn.execute(change.values(condemned_ms=tx.now_ms)).rowcount


def collect_content(run: RetentionPass) -> Iterator[Removed]:
    after = ("", "")
    while rows := run.read(to_condemn, run.keeping, after):
        after = (rows[-1]["account_id"], rows[-1]["sha256"])
        if run.dry:
            yield Removed("content_condemned", rows=len(rows), bytes=sum(r["size"] for r in rows))
            continue
        left = list(rows)
        while left:
            account = left[0]["account_id"]
            some = [r for r in left[: run.limit] if r["account_id"] == account]
            left = left[len(some) :]
            count = run.write(condemn, run.keeping, account, [r["sha256"] for r in some])
            yield Removed("content_condemned", rows=count)


def to_remove(tx: Tx, keeping: RetentionPolicy, after_ms: int, limit: int) -> list[Any]:
    """Condemned long enough ago; in the order in which they were."""
    query = farmwide(sa.select(contents)).where(
        contents.c.condemned_ms < tx.now_ms - keeping.condemned_ms, contents.c.condemned_ms >= after_ms
    )
    return list(tx.conn.execute(query.order_by(contents.c.condemned_ms).limit(limit)).mappings())


def forget_content(tx: Tx, gone: list[Any]) -> int:
    """The rows of removed objects, and the paths that they were registered under.

    A new upload may have taken a row over meanwhile: it has another generation, and stays.
    """
    count = 0
    for row in gone:
        mine = scoped(sa.delete(contents), contents, row["account_id"]).where(
            contents.c.sha256 == row["sha256"],
            contents.c.generation == row["generation"],
            contents.c.condemned_ms.is_not(None),
        )
        if tx.conn.execute(mine).rowcount:
            paths = scoped(sa.delete(registrations), registrations, row["account_id"])
            count += 1 + tx.conn.execute(paths.where(registrations.c.sha256 == row["sha256"])).rowcount
    return count


def remove_content(run: RetentionPass) -> Iterator[Removed]:
    """Objects first, then their rows."""
    if run.dry:
        rows = run.read(to_remove, run.keeping, 0, 1 << 30)
        yield Removed("content", rows=len(rows), files=len(rows), bytes=sum(r["size"] for r in rows))
        return
    while rows := run.read(to_remove, run.keeping, 0, FILES_AT_ONCE):
        freed = files = 0
        for row in rows:
            key = keys.content(row["account_id"], row["sha256"], row["generation"])
            files += run.context.store.path(key).exists()
            run.context.store.delete(key)
            run.context.store.prune_folder(key)
            freed += row["size"]
        yield Removed("content", run.write(forget_content, rows), files, freed)
