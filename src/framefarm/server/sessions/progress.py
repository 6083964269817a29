"""Progress of the frames in work: each session's latest value only, at most one a second, without events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from framefarm.server.database import Tx
from framefarm.server.json_types import Answer
from framefarm.server.rows import ProgressRow
from framefarm.server.sessions.tables import attempts, frames, progress, sessions
from framefarm.server.tenancy import farmwide
from framefarm.server.timestamps import iso

STALE_MS = 600_000
"""Age at which a session's progress is deleted."""
MOST_JOBS = 500
"""Most jobs in one query."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A session's latest report of the frame that it has in work; `fraction` from 0 to 1."""

    session: str
    job: str
    attempt: str
    frame: int
    fraction: float


@dataclass(frozen=True, slots=True)
class _FrameInWork(ProgressRow):
    task_number: int


def record(tx: Tx, reported: Iterable[Progress]) -> None:
    """Keep the latest value of each session, in one statement."""
    rows = [
        {
            "session_id": p.session,
            "job_id": p.job,
            "attempt_id": p.attempt,
            "frame": p.frame,
            "fraction": min(1.0, max(0.0, p.fraction)),
            "at_ms": tx.now_ms,
        }
        for p in reported
    ]
    if not rows:
        return
    insert = sqlite.insert if tx.conn.dialect.name == "sqlite" else postgresql.insert
    statement = insert(progress).values(rows)
    latest = {name: statement.excluded[name] for name in ("attempt_id", "frame", "fraction", "at_ms")}
    tx.conn.execute(statement.on_conflict_do_update(index_elements=["session_id"], set_=latest))
    tx.wake("events")


def of_jobs(tx: Tx, job_ids: Iterable[str], since_ms: int = 0) -> list[Answer]:
    """The frames in work of these jobs whose progress came after `since_ms`, lowest frame first.

    Only of attempts that their session still owns, and of frames that are not committed.
    """
    query = farmwide(
        sa.select(progress, attempts.c.task_number)
        .join(
            attempts,
            (attempts.c.id == progress.c.attempt_id)
            & (attempts.c.session_id == progress.c.session_id)
            & (attempts.c.job_id == progress.c.job_id),
        )
        .join(
            frames,
            (frames.c.job_id == progress.c.job_id)
            & (frames.c.frame == progress.c.frame)
            & (frames.c.attempt_id == progress.c.attempt_id),
            isouter=True,
        )
    ).where(
        progress.c.job_id.in_(sorted(job_ids)[:MOST_JOBS]),
        progress.c.at_ms > since_ms,
        attempts.c.outcome.is_(None),
        frames.c.frame.is_(None),
    )
    return [
        {
            "job": row.job_id,
            "frame": row.frame,
            "task": row.task_number,
            "attempt": row.attempt_id,
            "session": row.session_id,
            "fraction": round(row.fraction, 4),
            "at": iso(row.at_ms),
            "at_ms": row.at_ms,
        }
        for row in tx.rows(_FrameInWork, query.order_by(progress.c.frame))
    ]


def in_work(tx: Tx, job_id: str) -> list[Answer]:
    """The job's frames in work, for its detail."""
    return [{k: v for k, v in row.items() if k not in {"job", "at_ms"}} for row in of_jobs(tx, [job_id])]


def forget(tx: Tx) -> int:
    """Delete progress of ended sessions, and progress older than `STALE_MS`; returns the number of rows."""
    over = farmwide(sa.select(sessions.c.id)).where(sessions.c.ended.is_(True))
    old = (progress.c.at_ms < tx.now_ms - STALE_MS) | progress.c.session_id.in_(over)
    return tx.conn.execute(sa.delete(progress).where(old)).rowcount
