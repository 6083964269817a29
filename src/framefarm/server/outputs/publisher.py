"""Staged files made final: links or copies them to their output destination, then removes them from staging.

One publisher handles all files, in the order of their commits. A staged file is removed only after its row is
marked as published; after a crash in between, the same bytes are published again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.core.failure_codes import explain
from framefarm.server.catalog import destinations
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs import warnings as job_warnings
from framefarm.server.jobs.tables import jobs
from framefarm.server.rows import FileRow
from framefarm.server.sessions.tables import files
from framefarm.server.tenancy import farmwide

log = structlog.get_logger(__name__)
BATCH = 256
"""Files that one pass publishes at most."""
RETRY_SECONDS = 5.0
"""Pause of a destination that cannot be written."""
IDLE_SECONDS = 10.0
UNWRITABLE = "place_unwritable"
"""Code of the warning on a job whose output destination cannot be written."""
PACE_SECONDS = 0.05
"""Pause between two passes: commits that arrive meanwhile are published together."""


@dataclass(frozen=True, slots=True)
class RenderedFile(FileRow):
    """A committed file and its job's output destination."""

    output_url: str


@dataclass
class PublishResult:
    """Files that are final, and jobs whose files could not be published."""

    published: list[RenderedFile] = field(default_factory=list)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Job → (output destination, why it cannot be written): its files stay staged for the next attempt."""


def unpublished_files(tx: Tx, paused: Collection[str] = ()) -> list[RenderedFile]:
    """The oldest unpublished files, in commit order; those of `paused` destinations are left out."""
    query = farmwide(sa.select(files, jobs.c.output_url).join(jobs, jobs.c.id == files.c.job_id)).where(
        files.c.published_ms.is_(None)
    )
    if paused:
        query = query.where(jobs.c.output_url.not_in(paused))
    return tx.rows(RenderedFile, query.order_by(files.c.id).limit(BATCH))


def make_final(context: AppContext, rendered: Iterable[RenderedFile]) -> PublishResult:
    """Link (or copy) each staged file to its final name and sync the folders.

    A file that is not staged any more was published before a crash: it counts as published.
    """
    result = PublishResult()
    for url, group in groupby(sorted(rendered, key=lambda r: (r.output_url, r.id)), lambda r: r.output_url):
        rows = list(group)
        try:
            result.published += _publish_to(context, url, rows, result.refused)
        except (OSError, ValueError) as error:  # ValueError: its bucket is not mapped any more
            _refuse(result.refused, url, rows, error)
    for url, why in set(result.refused.values()):
        log.warning("publish_failed", place=url, error=why)
    return result


def _publish_to(
    context: AppContext, url: str, rows: list[RenderedFile], refused: dict[str, tuple[str, str]]
) -> list[RenderedFile]:
    """The published ones of `rows`, once their folders are synced; adds the others to `refused`."""
    published = []
    failed_paths: set[str] = set()
    folders: dict[tuple[str, ...], int] = {}
    with destinations.open_destination(context, url) as root:
        try:
            for row in rows:
                *parents, name = row.path.split("/")
                key = tuple(parents)
                try:
                    if row.path in failed_paths:  # files of one name are published in commit order
                        raise OSError(errno.EBUSY, "an earlier file of this name waits")
                    if key not in folders:
                        folders[key] = destinations.open_beneath(root, parents, create=True)
                    _place(context, row, folders[key], name)
                except OSError as error:
                    failed_paths.add(row.path)
                    _refuse(refused, url, [row], error)
                else:
                    published.append(row)
            for folder in folders.values():
                os.fsync(folder)
        finally:
            for folder in folders.values():
                os.close(folder)
    return published


def _refuse(
    refused: dict[str, tuple[str, str]], url: str, rows: list[RenderedFile], error: Exception
) -> None:
    why = getattr(error, "strerror", None) or str(error)
    refused.update({row.job_id: (url, why) for row in rows})


def _place(context: AppContext, row: RenderedFile, folder: int, name: str) -> None:
    staged = context.store.path(row.staged)
    temporary = _temporary(row.staged)
    _remove(temporary, folder)  # left by a farm that was killed at this point
    try:
        os.link(staged, temporary, dst_dir_fd=folder)
    except FileNotFoundError:
        if staged.exists():  # the folder is missing, not the file
            raise
        return
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        _copy(staged, temporary, folder)
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        _remove(temporary, folder)  # rename(2) keeps both names if both are links of one file


def _temporary(staged: str) -> str:
    """Temporary name of a staged file, the same for every attempt: it finds what a killed farm left."""
    return f".{hashlib.sha256(staged.encode()).hexdigest()[:24]}.part"


def _remove(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _copy(source: Path, name: str, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    target = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        with open(source, "rb") as file:
            while os.sendfile(target, file.fileno(), None, 1 << 30):
                pass
        os.fsync(target)
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(target)


def record_result(tx: Tx, context: AppContext, result: PublishResult) -> None:
    """Mark the files as published, which may end their jobs, and update the warnings of the jobs."""
    by_job: dict[str, list[RenderedFile]] = {}
    for row in result.published:
        by_job.setdefault(row.job_id, []).append(row)
    for job_id, rows in sorted(by_job.items()):
        state = job_states.lock(tx, job_id)
        unpublished = files.c.id.in_([r.id for r in rows]) & files.c.published_ms.is_(None)
        count = tx.conn.execute(
            farmwide(sa.update(files)).where(unpublished).values(published_ms=tx.now_ms)
        ).rowcount
        state.unpublished -= count
        _mark_replaced(tx, job_id, rows)
        job_states.save(tx, state)
    warn_unwritable(tx, by_job.keys() | result.refused.keys(), result.refused)
    tx.wake("dispatch")


def warn_unwritable(tx: Tx, job_ids: Collection[str], refused: dict[str, tuple[str, str]]) -> None:
    """Warn those of these jobs that are in `PublishResult.refused`; remove the warning of the others."""
    warnings = {
        job_id: job_warnings.JobWarning(
            code=UNWRITABLE, message=explain(UNWRITABLE, {"place": url, "what": why}), subject=url
        )
        for job_id, (url, why) in refused.items()
    }
    job_warnings.replace_code(tx, job_ids, UNWRITABLE, warnings)


def _mark_replaced(tx: Tx, job_id: str, rows: list[RenderedFile]) -> None:
    """Mark published files of other jobs that had the same destination and path as replaced by `job_id`."""
    others = farmwide(sa.select(jobs.c.id)).where(
        jobs.c.output_url == rows[0].output_url, jobs.c.id != job_id
    )
    if tx.conn.execute(others.limit(1)).first() is None:
        return
    same = files.c.job_id.in_(others) & files.c.path.in_([r.path for r in rows])
    change = farmwide(sa.update(files)).where(
        same, files.c.published_ms.is_not(None), files.c.replaced_by.is_(None)
    )
    tx.conn.execute(change.values(replaced_by=job_id))


def remove_staged(context: AppContext, published: list[RenderedFile]) -> None:
    """Remove published files from staging, and folders that are then empty. Blocks."""
    for row in published:
        staged = context.store.path(row.staged)
        staged.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            staged.parent.rmdir()


async def run(context: AppContext) -> None:
    """Publish files until cancelled: at each commit, and every `IDLE_SECONDS`.

    A destination that cannot be written pauses for `RETRY_SECONDS`, so that it delays no other.
    """
    paused: dict[str, float] = {}
    async with context.hub.listen("publish") as woken:
        while True:
            wait = IDLE_SECONDS
            try:
                now = time.monotonic()
                paused = {url: until for url, until in paused.items() if until > now}
                rows = await context.db.read(unpublished_files, list(paused))
                if rows:
                    result = await run_in_threadpool(make_final, context, rows)
                    await context.db.write(record_result, context, result)
                    await run_in_threadpool(remove_staged, context, result.published)
                    paused |= {url: time.monotonic() + RETRY_SECONDS for url, _ in result.refused.values()}
                if len(rows) == BATCH:
                    continue
                if rows:
                    await asyncio.sleep(PACE_SECONDS)
                if paused:
                    wait = max(0.0, min(paused.values()) - time.monotonic())
            except Exception:
                log.exception("publisher_failed")
                wait = RETRY_SECONDS
            await woken.wait(wait)
