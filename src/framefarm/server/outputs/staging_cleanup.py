"""Removal of abandoned files from staging.

A runner stages a frame, then reports it; the publisher makes it final, then removes the staged file. If the
runner or the farm is killed in between, the staged file stays until it is removed here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.loops import repeat
from framefarm.server.sessions.tables import attempts, files, sessions
from framefarm.server.storage import keys

FARM_WIDE = "The leader cleans the staging folders of all accounts."
log = structlog.get_logger(__name__)
SWEEP_SECONDS = 10.0
FOLDERS_PER_READ = 500


@dataclass(frozen=True)
class StagingFolder:
    """Folder `staging/<account>/<attempt>`, and when an entry was last made or removed in it."""

    account: str
    attempt: str
    changed_ms: int


def staging_folders(context: AppContext) -> list[StagingFolder]:
    """All attempts' folders in staging. Blocks."""
    found: list[StagingFolder] = []
    for account in os.scandir(context.store.root / "staging"):
        for entry in _entries(account):
            with contextlib.suppress(FileNotFoundError):
                changed_ms = entry.stat().st_mtime_ns // 1_000_000
                found.append(StagingFolder(account.name, entry.name, changed_ms))
    return found


def _entries(folder: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder.path) as entries:
        yield from entries


def abandoned_folders(tx: Tx, folders: list[StagingFolder]) -> dict[str, set[str]]:
    """Keys of the folders to which no runner writes any more → keys of their files that wait to be published.

    An attempt without a row was returned by its session, which was created before the folder changed. Its
    folder is abandoned once all live sessions of the account are younger than that change.
    """
    query = (
        sa.select(attempts.c.id, attempts.c.job_id, sessions.c.ended).join(
            sessions, attempts.c.session_id == sessions.c.id
        )
    ).where(attempts.c.id.in_([f.attempt for f in folders]))
    known = {row.id: row for row in tx.conn.execute(query)}
    oldest = sa.select(sessions.c.account_id, sa.func.min(sessions.c.created_ms))
    live = tx.conn.execute(oldest.where(sessions.c.ended.is_(False)).group_by(sessions.c.account_id))
    oldest_session_ms: dict[str, int] = {row[0]: row[1] for row in live}
    abandoned: dict[str, set[str]] = {}
    for folder in folders:
        row = known.get(folder.attempt)
        if row is None:
            since_ms = oldest_session_ms.get(folder.account)
            over = since_ms is None or folder.changed_ms < since_ms
        else:
            over = row.ended
        if over:
            abandoned[keys.staging(folder.account, folder.attempt)] = set()
    job_ids = {row.job_id for row in known.values() if row.ended}
    unpublished = sa.select(files.c.staged).where(files.c.job_id.in_(job_ids), files.c.published_ms.is_(None))
    for key in tx.conn.execute(unpublished).scalars():
        abandoned.get(key.rpartition("/")[0], set()).add(key)
    return abandoned


def removable_files(context: AppContext, abandoned: dict[str, set[str]]) -> list[Path]:
    """Files in abandoned folders, except those that wait to be published. Blocks."""
    paths: list[Path] = []
    for key, unpublished in abandoned.items():
        folder: Path = context.store.path(key)
        with contextlib.suppress(FileNotFoundError):
            paths += [folder / name for name in os.listdir(folder) if f"{key}/{name}" not in unpublished]
    return paths


def remove(context: AppContext, abandoned: dict[str, set[str]]) -> int:
    """Remove the `removable_files`, and folders that are then empty; returns the number of files. Blocks."""
    paths = removable_files(context, abandoned)
    for path in paths:
        path.unlink(missing_ok=True)
    for key in abandoned:
        with contextlib.suppress(OSError):
            context.store.path(key).rmdir()
    return len(paths)


async def run(context: AppContext) -> None:
    """Remove abandoned files every `SWEEP_SECONDS`, until cancelled."""

    async def sweep() -> None:
        folders = await run_in_threadpool(staging_folders, context)
        for start in range(0, len(folders), FOLDERS_PER_READ):
            abandoned = await context.db.read(abandoned_folders, folders[start : start + FOLDERS_PER_READ])
            if count := await run_in_threadpool(remove, context, abandoned):
                log.info("staging_swept", files=count)

    await repeat(sweep, seconds=SWEEP_SECONDS, failure="staging_not_swept")
