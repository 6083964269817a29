"""Brings committed files to their output place, in commit order, and removes the staged ones.

Idempotent and serialised: one publisher, which takes files in the order of their commits. The staged file
goes only after the row says `published`; a crash in between publishes the same bytes again.
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
from framefarm.server.jobs.tables import jobs
from framefarm.server.rows import FileRow
from framefarm.server.sessions.tables import files
from framefarm.server.tenancy import farmwide

log = structlog.get_logger(__name__)
BATCH = 256
RETRY_SECONDS = 5.0
IDLE_SECONDS = 10.0
UNWRITABLE = "place_unwritable"
"""Code of the warning on a job whose output place cannot be written."""
PACE_SECONDS = 0.05
"""Rounds follow one another no faster: what was committed meanwhile goes in one. The first comes at once."""


@dataclass(frozen=True, slots=True)
class RenderedFile(FileRow):
    """A committed file and its job's output destination."""

    output_url: str


@dataclass
class Published:
    """What became of some files."""

    done: list[RenderedFile] = field(default_factory=list)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Job → (output place, why it could not be written): its files stay staged and are tried again."""


def waiting(tx: Tx, resting: Collection[str] = ()) -> list[RenderedFile]:
    """The oldest unpublished files in commit order and their output place; `resting` places are left out."""
    query = farmwide(sa.select(files, jobs.c.output_url).join(jobs, jobs.c.id == files.c.job_id)).where(
        files.c.published_ms.is_(None)
    )
    if resting:
        query = query.where(jobs.c.output_url.not_in(resting))
    return tx.rows(RenderedFile, query.order_by(files.c.id).limit(BATCH))


def publish(context: AppContext, rows: Iterable[RenderedFile]) -> Published:
    """Link (or copy) each staged file to its final name and sync the folders.

    A file that is not staged any more was published before a crash: it counts as done.
    """
    made = Published()
    for url, group in groupby(sorted(rows, key=lambda r: (r.output_url, r.id)), lambda r: r.output_url):
        mine = list(group)
        try:
            made.done += _publish_to(context, url, mine, made.refused)
        except (OSError, ValueError) as error:  # a ValueError: its bucket is not mapped any more
            _refuse(made.refused, url, mine, error)
    for url, why in set(made.refused.values()):
        log.warning("publish_failed", place=url, error=why)
    return made


def _publish_to(
    context: AppContext, url: str, rows: list[RenderedFile], refused: dict[str, tuple[str, str]]
) -> list[RenderedFile]:
    """Those that made it, once their folders are synced."""
    done = []
    stuck: set[str] = set()
    folders: dict[tuple[str, ...], int] = {}
    with destinations.open_destination(context, url) as root:
        try:
            for row in rows:
                *parents, name = row.path.split("/")
                key = tuple(parents)
                try:
                    if row.path in stuck:  # a later file must not go before an earlier one of its name
                        raise OSError(errno.EBUSY, "an earlier file of this name waits")
                    if key not in folders:
                        folders[key] = destinations.open_beneath(root, parents, create=True)
                    _place(context, row, folders[key], name)
                except OSError as error:
                    stuck.add(row.path)
                    _refuse(refused, url, [row], error)
                else:
                    done.append(row)
            for folder in folders.values():
                os.fsync(folder)
        finally:
            for folder in folders.values():
                os.close(folder)
    return done


def _refuse(
    refused: dict[str, tuple[str, str]], url: str, rows: list[RenderedFile], error: Exception
) -> None:
    why = getattr(error, "strerror", None) or str(error)
    refused.update({row.job_id: (url, why) for row in rows})


def _place(context: AppContext, row: RenderedFile, folder: int, name: str) -> None:
    staged = context.store.path(row.staged)
    temporary = _temporary(row.staged)
    _remove(temporary, folder)  # left by a farm that was killed just here
    try:
        os.link(staged, temporary, dst_dir_fd=folder)
    except FileNotFoundError:
        if staged.exists():  # it is the folder that is gone
            raise
        return
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        _copy(staged, temporary, folder)
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        _remove(temporary, folder)  # where both are links of one file, a rename leaves them


def _temporary(staged: str) -> str:
    """The same name at every try, so that what a killed farm left is found again."""
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


def settle(tx: Tx, context: AppContext, made: Published) -> None:
    """Write down what was published; a job may be done with it. One that waits for its place says so."""
    by_job: dict[str, list[RenderedFile]] = {}
    for row in made.done:
        by_job.setdefault(row.job_id, []).append(row)
    for job_id, mine in sorted(by_job.items()):
        state = job_states.lock(tx, job_id)
        fresh = [r.id for r in mine]
        unpublished = files.c.id.in_(fresh) & files.c.published_ms.is_(None)
        count = tx.conn.execute(
            farmwide(sa.update(files)).where(unpublished).values(published_ms=tx.now_ms)
        ).rowcount
        state.unpublished -= count
        _mark_replaced(tx, job_id, mine)
        job_states.save(tx, state)
    _warn(tx, by_job.keys() | made.refused.keys(), made.refused)
    tx.wake("dispatch")


def _warn(tx: Tx, job_ids: Collection[str], refused: dict[str, tuple[str, str]]) -> None:
    """A job whose place cannot be written has a warning, as long as that is so."""
    query = farmwide(sa.select(jobs.c.id, jobs.c.warnings)).where(jobs.c.id.in_(job_ids))
    for row in tx.conn.execute(query.order_by(jobs.c.id).with_for_update()).all():
        warnings = [w for w in row.warnings if w["code"] != UNWRITABLE]
        if row.id in refused:
            url, why = refused[row.id]
            text = explain(UNWRITABLE, {"place": url, "what": why})
            warnings.append({"code": UNWRITABLE, "message": text, "subject": url})
        if warnings != row.warnings:
            key = jobs.c.id == row.id
            tx.conn.execute(farmwide(sa.update(jobs)).where(key).values(warnings=warnings))


def _mark_replaced(tx: Tx, job_id: str, mine: list[RenderedFile]) -> None:
    """Files of other jobs that stood in the same place say who replaced them."""
    others = farmwide(sa.select(jobs.c.id)).where(
        jobs.c.output_url == mine[0].output_url, jobs.c.id != job_id
    )
    if tx.conn.execute(others.limit(1)).first() is None:
        return
    same = files.c.job_id.in_(others) & files.c.path.in_([r.path for r in mine])
    change = farmwide(sa.update(files)).where(
        same, files.c.published_ms.is_not(None), files.c.replaced_by.is_(None)
    )
    tx.conn.execute(change.values(replaced_by=job_id))


def sweep(context: AppContext, rows: list[RenderedFile]) -> None:
    """Remove the staged files of what is published."""
    for row in rows:
        staged = context.store.path(row.staged)
        staged.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            staged.parent.rmdir()


async def run(context: AppContext) -> None:
    """The publisher's life: woken by commits, else looking now and then. A place that cannot be written rests
    for a while, so that it holds up no other."""
    resting: dict[str, float] = {}
    async with context.hub.listen("publish") as woken:
        while True:
            pause = IDLE_SECONDS
            try:
                now = time.monotonic()
                resting = {url: until for url, until in resting.items() if until > now}
                rows = await context.db.read(waiting, list(resting))
                if rows:
                    made = await run_in_threadpool(publish, context, rows)
                    await context.db.write(settle, context, made)
                    await run_in_threadpool(sweep, context, made.done)
                    resting |= {url: time.monotonic() + RETRY_SECONDS for url, _ in made.refused.values()}
                if len(rows) == BATCH:
                    continue
                if rows:
                    await asyncio.sleep(PACE_SECONDS)
                if resting:
                    pause = max(0.0, min(resting.values()) - time.monotonic())
            except Exception:
                log.exception("publisher_failed")
                pause = RETRY_SECONDS
            await woken.wait(pause)
