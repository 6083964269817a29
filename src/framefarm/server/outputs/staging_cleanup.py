"""What is left in staging when a machine or the farm was killed between two steps, removed.

A machine stages a frame, then reports it; the farm publishes it, then removes the staged file. Whoever dies
in between leaves files that no one will ask for.
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
from framefarm.server.tenancy import farmwide

log = structlog.get_logger(__name__)
LOOK_SECONDS = 10.0
AT_ONCE = 500


@dataclass(frozen=True)
class Folder:
    """`staging/<account>/<attempt>`, and when something was last made in it."""

    account: str
    attempt: str
    changed_ms: int


def folders(context: AppContext) -> list[Folder]:
    """Those that are there now."""
    found: list[Folder] = []
    for account in os.scandir(context.store.root / "staging"):
        for entry in _entries(account):
            with contextlib.suppress(FileNotFoundError):
                found.append(Folder(account.name, entry.name, entry.stat().st_mtime_ns // 1_000_000))
    return found


def _entries(folder: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder.path) as entries:
        yield from entries


def abandoned(tx: Tx, seen: list[Folder]) -> dict[str, set[str]]:
    """Folders (`staging/<account>/<attempt>`) that no machine writes to any more → the keys in them that are
    still to be published.

    An attempt without a row was given back: its machine had a session before the folder changed, so nobody
    writes there once every live session of the account is younger.
    """
    query = farmwide(
        sa.select(attempts.c.id, attempts.c.job_id, sessions.c.ended).join(
            sessions, attempts.c.session_id == sessions.c.id
        )
    ).where(attempts.c.id.in_([f.attempt for f in seen]))
    known = {row.id: row for row in tx.conn.execute(query)}
    oldest = farmwide(sa.select(sessions.c.account_id, sa.func.min(sessions.c.created_ms)))
    live = tx.conn.execute(oldest.where(sessions.c.ended.is_(False)).group_by(sessions.c.account_id))
    since: dict[str, int] = {row[0]: row[1] for row in live}
    found: dict[str, set[str]] = {}
    for folder in seen:
        row = known.get(folder.attempt)
        unknown = folder.account not in since or folder.changed_ms < since[folder.account]
        if unknown if row is None else row.ended:
            found[keys.staging(folder.account, folder.attempt)] = set()
    mine = {row.job_id for row in known.values() if row.ended}
    wanted = farmwide(sa.select(files.c.staged)).where(
        files.c.job_id.in_(mine), files.c.published_ms.is_(None)
    )
    for key in tx.conn.execute(wanted).scalars():
        found.get(key.rpartition("/")[0], set()).add(key)
    return found


def unwanted(context: AppContext, found: dict[str, set[str]]) -> list[Path]:
    """The files in abandoned folders that are not still to be published."""
    paths: list[Path] = []
    for key, wanted in found.items():
        folder: Path = context.store.path(key)
        with contextlib.suppress(FileNotFoundError):
            paths += [folder / name for name in os.listdir(folder) if f"{key}/{name}" not in wanted]
    return paths


def remove(context: AppContext, found: dict[str, set[str]]) -> int:
    """Remove what is not in use; returns how many files."""
    paths = unwanted(context, found)
    for path in paths:
        path.unlink(missing_ok=True)
    for key in found:
        with contextlib.suppress(OSError):
            context.store.path(key).rmdir()
    return len(paths)


async def run(context: AppContext) -> None:
    """Sweep staging every `LOOK_SECONDS`."""

    async def sweep() -> None:
        seen = await run_in_threadpool(folders, context)
        for start in range(0, len(seen), AT_ONCE):
            found = await context.db.read(abandoned, seen[start : start + AT_ONCE])
            if count := await run_in_threadpool(remove, context, found):
                log.info("staging_swept", files=count)

    await repeat(sweep, seconds=LOOK_SECONDS, failure="staging_not_swept")
