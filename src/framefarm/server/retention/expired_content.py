"""Removal of manifests without a job, and of content without a manifest: condemned first, then removed.

A row is removed after its references and its object: a pass that is killed in between leaves a row, which the
next pass finds.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from framefarm.server.rows import ContentRow, ManifestRow
from framefarm.server.storage import keys
from framefarm.server.tenancy import scoped

FARM_WIDE = "Retention removes content that no account uses."
PAGE = 1000
FILES_AT_ONCE = 20
"""Objects that one step removes."""


# ------------------------------------------------------------------------------ manifests


def _unused(now_ms: int) -> sa.ColumnElement[bool]:
    """Condition: no job that still has rows uses the manifest, and no submission is about to."""
    users = sa.select(jobs.c.id).where(
        jobs.c.account_id == manifests.c.account_id,
        jobs.c.manifest_sha256 == manifests.c.sha256,
        jobs.c.emptied_ms.is_(None),
    )
    return (manifests.c.created_ms < now_ms - UNUSED_MS) & ~sa.exists(users)


def unused_manifests(tx: Tx, after: tuple[str, str]) -> list[ManifestRow]:
    """A page of manifests without a job, in key order above `after` (account, SHA-256)."""
    key = sa.tuple_(manifests.c.account_id, manifests.c.sha256)
    query = sa.select(manifests).where(_unused(tx.now_ms), key > after)
    order = (manifests.c.account_id, manifests.c.sha256)
    return tx.rows(ManifestRow, query.order_by(*order).limit(PAGE))


def remove_manifest(tx: Tx, account_id: str, sha256: str, limit: int) -> tuple[int, bool]:
    """Remove up to `limit` references of the manifest, then its row: (rows removed, whether all are removed).

    A submission that uses the manifest again locks its row and writes all references anew.
    """
    of_manifest = (manifests.c.account_id == account_id) & (manifests.c.sha256 == sha256)
    query = sa.select(manifests.c.sha256).where(of_manifest, _unused(tx.now_ms))
    if tx.conn.execute(query.with_for_update(skip_locked=True)).first() is None:
        return 0, True
    c = manifest_contents.c
    references = (c.account_id == account_id) & (c.manifest_sha256 == sha256)
    page = sa.select(c.content_sha256).where(references).limit(limit)
    change = sa.delete(manifest_contents).where(references, c.content_sha256.in_(page))
    count = tx.conn.execute(change).rowcount
    if count >= limit:
        return count, False
    return count + tx.conn.execute(sa.delete(manifests).where(of_manifest)).rowcount, True


def remove_manifests(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove the rows of manifests without a job; `orphan_objects` removes their objects later."""
    after = ("", "")
    while rows := retention_pass.read(unused_manifests, after):
        after = (rows[-1].account_id, rows[-1].sha256)
        if retention_pass.dry_run:
            yield Removed("manifests", rows=len(rows))
            continue
        for row in rows:
            done = False
            while not done:
                count, done = retention_pass.write(
                    remove_manifest, row.account_id, row.sha256, retention_pass.limit
                )
                yield Removed("manifests", rows=count)


# ------------------------------------------------------------------------------ content


def _to_be_condemned(policy: RetentionPolicy, now_ms: int) -> sa.ColumnElement[bool]:
    """`core.retention.content_fate(…) == "condemn"` as a condition on `contents`."""
    referred = sa.select(manifest_contents.c.content_sha256).where(
        manifest_contents.c.account_id == contents.c.account_id,
        manifest_contents.c.content_sha256 == contents.c.sha256,
    )
    may_start = job_state.c.cancel_ms.is_(None) & job_state.c.failed_cause.is_(None)
    awaited = (
        sa.select(registrations.c.sha256)
        .join(missing_paths, missing_paths.c.user_id == registrations.c.user_id)
        .join(job_state, job_state.c.job_id == missing_paths.c.job_id)
    ).where(
        registrations.c.account_id == contents.c.account_id,
        registrations.c.sha256 == contents.c.sha256,
        may_start,
    )
    old = contents.c.last_claimed_ms < now_ms - policy.unclaimed_ms
    return contents.c.condemned_ms.is_(None) & old & ~sa.exists(referred) & ~sa.exists(awaited)


def content_to_condemn(tx: Tx, policy: RetentionPolicy, after: tuple[str, str]) -> list[ContentRow]:
    """A page of content without a use, in key order above `after` (account, SHA-256)."""
    key = sa.tuple_(contents.c.account_id, contents.c.sha256)
    query = sa.select(contents).where(_to_be_condemned(policy, tx.now_ms), key > after)
    order = (contents.c.account_id, contents.c.sha256)
    return tx.rows(ContentRow, query.order_by(*order).limit(PAGE))


def condemn(tx: Tx, policy: RetentionPolicy, account_id: str, sha256s: list[str]) -> int:
    """Condemn those of an account's contents that are still without a use; returns their number.

    Content that another transaction claims at this moment is locked, and skipped.
    """
    query = scoped(sa.select(contents.c.sha256), contents, account_id).where(
        contents.c.sha256.in_(listed(tx, sha256s)), _to_be_condemned(policy, tx.now_ms)
    )
    due = tx.conn.execute(query.with_for_update(of=contents, skip_locked=True)).scalars().all()
    change = scoped(sa.update(contents), contents, account_id).where(contents.c.sha256.in_(listed(tx, due)))
    return tx.conn.execute(change.values(condemned_ms=tx.now_ms)).rowcount


def condemn_content(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Condemn content without a use: from then on it is invisible to its account."""
    after = ("", "")
    while rows := retention_pass.read(content_to_condemn, retention_pass.policy, after):
        after = (rows[-1].account_id, rows[-1].sha256)
        if retention_pass.dry_run:
            yield Removed("content_condemned", rows=len(rows), bytes=sum(r.size for r in rows))
            continue
        while rows:
            account = rows[0].account_id
            batch = [r for r in rows[: retention_pass.limit] if r.account_id == account]
            rows = rows[len(batch) :]
            sha256s = [r.sha256 for r in batch]
            count = retention_pass.write(condemn, retention_pass.policy, account, sha256s)
            yield Removed("content_condemned", rows=count)


def content_to_remove(tx: Tx, policy: RetentionPolicy, limit: int | None) -> list[ContentRow]:
    """Up to `limit` contents that were condemned `policy.condemned_ms` ago, the oldest first; None: all."""
    query = sa.select(contents).where(contents.c.condemned_ms < tx.now_ms - policy.condemned_ms)
    return tx.rows(ContentRow, query.order_by(contents.c.condemned_ms).limit(limit))


def remove_content_rows(tx: Tx, removed: list[ContentRow]) -> int:
    """Remove the rows of removed objects, and their registrations; returns the number of rows.

    A row that a new upload has taken over meanwhile has another generation, and stays.
    """
    count = 0
    for row in removed:
        query = scoped(sa.delete(contents), contents, row.account_id).where(
            contents.c.sha256 == row.sha256,
            contents.c.generation == row.generation,
            contents.c.condemned_ms.is_not(None),
        )
        if tx.conn.execute(query).rowcount:
            paths = scoped(sa.delete(registrations), registrations, row.account_id)
            count += 1 + tx.conn.execute(paths.where(registrations.c.sha256 == row.sha256)).rowcount
    return count


def remove_content(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove the objects of condemned content, then their rows."""
    if retention_pass.dry_run:
        rows = retention_pass.read(content_to_remove, retention_pass.policy, None)
        yield Removed("content", rows=len(rows), files=len(rows), bytes=sum(r.size for r in rows))
        return
    while rows := retention_pass.read(content_to_remove, retention_pass.policy, FILES_AT_ONCE):
        size = files = 0
        for row in rows:
            key = keys.content(row.account_id, row.sha256, row.generation)
            files += retention_pass.context.store.path(key).exists()
            retention_pass.context.store.delete(key)
            retention_pass.context.store.prune_folder(key)
            size += row.size
        yield Removed("content", retention_pass.write(remove_content_rows, rows), files, size)
