"""Thumbnails of committed frames, as stored by the runners' image decoders."""

from __future__ import annotations

import io
import os
import shutil
import stat
from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.errors import NotFound
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.rows import FrameRow
from framefarm.server.sessions.tables import frames
from framefarm.server.storage import keys
from framefarm.server.tenancy import farmwide


@dataclass(frozen=True, slots=True)
class CommittedFrame(FrameRow):
    """A committed frame and its job's account."""

    account_id: str


def find(tx: Tx, job_id: str, frame: int, revision: int) -> CommittedFrame | None:
    """Row of a frame of a job that is not deleted; None if there is none of this revision."""
    query = farmwide(sa.select(frames, jobs.c.account_id).join(jobs, jobs.c.id == frames.c.job_id)).where(
        frames.c.job_id == job_id,
        frames.c.frame == frame,
        frames.c.part == 0,
        frames.c.revision == revision,
        jobs.c.deleted_ms.is_(None),
    )
    return tx.row_or_none(CommittedFrame, query)


def read(context: AppContext, row: CommittedFrame) -> bytes:
    """WebP bytes of a frame's thumbnail; blocks. Raises NotFound if it is deleted or incomplete."""
    key = keys.thumbnail(row.account_id, row.job_id, row.attempt_id, row.frame)
    try:
        fd = os.open(context.store.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise NotFound("The thumbnail is deleted.") from None
    with io.FileIO(fd) as file:
        status = os.fstat(fd)
        content = file.read(row.thumbnail_bytes) if stat.S_ISREG(status.st_mode) else b""
    if content is None or status.st_size != row.thumbnail_bytes or content[8:12] != b"WEBP":
        raise NotFound("The thumbnail is incomplete: it was not written to its end.")
    return content


def remove(context: AppContext, account_id: str, job_id: str) -> None:
    """Remove all thumbnails of a deleted job; blocks."""
    shutil.rmtree(context.store.path(keys.thumbnails(account_id, job_id)), ignore_errors=True)
