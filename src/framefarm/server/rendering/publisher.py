"""Brings committed files to their output place, in commit order, and removes the staged ones.

Idempotent and serialised: one publisher, which takes files in the order of their commits. The staged file
goes only after the row says `published`; a crash in between publishes the same bytes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.server import places
from framefarm.server.database import Tx
from framefarm.server.farm import Farm
from framefarm.server.ids import new_id
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import jobs
from framefarm.server.rendering.tables import files
from framefarm.server.tenancy import farmwide

log = structlog.get_logger(__name__)
BATCH = 256
RETRY_SECONDS = 5.0
IDLE_SECONDS = 10.0
PACE_SECONDS = 0.05
"""Rounds follow one another no faster: what was committed meanwhile goes in one. The first comes at once."""


def waiting(tx: Tx) -> list[Any]:
    """The oldest unpublished files, in commit order, with their job's output place."""
    query = farmwide(sa.select(files, jobs.c.output_url).join(jobs, jobs.c.id == files.c.job_id)).where(
        files.c.published_ms.is_(None)
    )
    return list(tx.conn.execute(query.order_by(files.c.id).limit(BATCH)).mappings())


def publish(farm: Farm, rows: Iterable[Any]) -> list[Any]:
    """Link (or copy) each staged file to its final name and sync the folders; returns those that made it.

    A file that is not staged any more was published before a crash: it counts as done.
    """
    done: list[Any] = []
    for url, group in groupby(
        sorted(rows, key=lambda r: (r["output_url"], r["id"])), lambda r: r["output_url"]
    ):
        try:
            with places.open_place(farm, url) as root:
                folders: dict[tuple[str, ...], int] = {}
                try:
                    for row in group:
                        *parents, name = row["path"].split("/")
                        key = tuple(parents)
                        if key not in folders:
                            folders[key] = places.open_beneath(root, parents, create=True)
                        _place(farm, row, folders[key], name)
                        done.append(row)
                finally:
                    for folder in folders.values():
                        os.fsync(folder)
                        os.close(folder)
        except OSError as error:
            log.warning("publish_failed", place=url, error=str(error))
    return done


def _place(farm: Farm, row: Any, folder: int, name: str) -> None:
    staged = farm.store.path(row["staged"])
    temporary = f".{new_id('part')}"
    try:
        os.link(staged, temporary, dst_dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        _copy(staged, temporary, folder)
    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _copy(source: Any, name: str, folder: int) -> None:
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


def settle(tx: Tx, farm: Farm, rows: list[Any]) -> None:
    """Write down what was published; a job may be done with it."""
    by_job: dict[str, list[Any]] = {}
    for row in rows:
        by_job.setdefault(row["job_id"], []).append(row)
    for job_id, mine in sorted(by_job.items()):
        state = job_states.lock(tx, job_id)
        fresh = [r["id"] for r in mine]
        unpublished = files.c.id.in_(fresh) & files.c.published_ms.is_(None)
        count = tx.conn.execute(
            farmwide(sa.update(files)).where(unpublished).values(published_ms=tx.now_ms)
        ).rowcount
        state.add("unpublished", -count)
        _mark_replaced(tx, job_id, mine)
        job_states.save(tx, state)
    tx.after_commit(lambda: farm.hub.wake("dispatch"))


def _mark_replaced(tx: Tx, job_id: str, mine: list[Any]) -> None:
    """Files of other jobs that stood in the same place say who replaced them."""
    others = farmwide(sa.select(jobs.c.id)).where(
        jobs.c.output_url == mine[0]["output_url"], jobs.c.id != job_id
    )
    if tx.conn.execute(others.limit(1)).first() is None:
        return
    same = files.c.job_id.in_(others) & files.c.path.in_([r["path"] for r in mine])
    change = farmwide(sa.update(files)).where(same, files.c.published_ms.is_not(None))
    tx.conn.execute(change.values(replaced_by=job_id))


def sweep(farm: Farm, rows: list[Any]) -> None:
    """Remove the staged files of what is published."""
    for row in rows:
        staged = farm.store.path(row["staged"])
        staged.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            staged.parent.rmdir()


async def run(farm: Farm) -> None:
    """The publisher's life: woken by commits, else looking now and then."""
    pause = IDLE_SECONDS
    async with farm.hub.listen("publish") as woken:
        while True:
            try:
                rows = await farm.db.read(waiting)
                done = await run_in_threadpool(publish, farm, rows) if rows else []
                if done:
                    await farm.db.write(settle, farm, done)
                    await run_in_threadpool(sweep, farm, done)
                if len(rows) == BATCH and done:
                    continue
                pause = RETRY_SECONDS if len(done) < len(rows) else IDLE_SECONDS
                if done:
                    await asyncio.sleep(PACE_SECONDS)
            except Exception:
                log.exception("publisher_failed")
                pause = RETRY_SECONDS
            await woken.wait(pause)
