"""Deletion of old jobs, and removal of the rows and thumbnails of deleted ones.

A deleted job is emptied a few rows at a time. Kept for the bill: its row with title and project, its state,
and its attempts, which are the usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from framefarm.core.job import FINISHED
from framefarm.core.retention import DELETED_MS, DeletedJob, may_be_emptied
from framefarm.server.budgets.tables import budget_holds
from framefarm.server.database import Tx
from framefarm.server.files.tables import missing_paths
from framefarm.server.job_api import actions
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import job_dependencies, job_state, jobs, tasks
from framefarm.server.mail.tables import mails
from framefarm.server.outputs import thumbnails
from framefarm.server.retention.retention_pass import Removed, RetentionPass
from framefarm.server.sessions.tables import files, frames, progress, sessions
from framefarm.server.storage import keys

FARM_WIDE = "Retention empties what is due of all accounts."
PAGE = 50
EMPTIED_TABLES: tuple[sa.Table, ...] = (
    frames, files, tasks, missing_paths, job_dependencies, mails, progress, budget_holds,
)  # fmt: skip


def _count(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    query = sa.select(sa.func.count()).select_from(table)
    return query.where(table.c.job_id == jobs.c.id, *where).scalar_subquery()


def _select_facts(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Query of these columns, then the fields of `DeletedJob`, for deleted jobs that are not emptied."""
    query = sa.select(
        *columns,
        jobs.c.deleted_ms,
        _count(sessions, ~sessions.c.ended),
        _count(files, files.c.published_ms.is_(None)),
        _count(mails, mails.c.status == "pending"),
    )
    return query.where(jobs.c.deleted_ms.is_not(None), jobs.c.emptied_ms.is_(None))


def due_jobs(tx: Tx, after: str) -> tuple[list[str], str | None]:
    """A page of jobs that may be emptied, with ids above `after`; and the last id read, None at the end."""
    facts = _select_facts(jobs.c.id).where(jobs.c.deleted_ms < tx.now_ms - DELETED_MS, jobs.c.id > after)
    rows = tx.conn.execute(facts.order_by(jobs.c.id).limit(PAGE)).all()
    due = [row.id for row in rows if may_be_emptied(DeletedJob(*row[1:]), tx.now_ms)]
    return due, rows[-1].id if rows else None


def facts_of(tx: Tx, job_id: str) -> DeletedJob | None:
    """Facts of a deleted job; None if it is not deleted, or already emptied."""
    row = tx.conn.execute(_select_facts().where(jobs.c.id == job_id)).one_or_none()
    return None if row is None else DeletedJob(*row)


def count_rows(tx: Tx, job_id: str) -> int | None:
    """Number of rows that `remove_rows` would remove in all; None if the job may not be emptied now."""
    facts = facts_of(tx, job_id)
    if facts is None or not may_be_emptied(facts, tx.now_ms):
        return None
    counts = [sa.select(sa.func.count()).select_from(t).where(t.c.job_id == job_id) for t in EMPTIED_TABLES]
    return sum(int(tx.conn.execute(query).scalar_one()) for query in counts)


def remove_rows(tx: Tx, job_id: str, limit: int) -> tuple[int, bool]:
    """Remove up to `limit` rows of the job; locks it. Returns (rows removed, whether all are removed)."""
    job_states.lock(tx, job_id)
    facts = facts_of(tx, job_id)
    if facts is None or not may_be_emptied(facts, tx.now_ms):
        return 0, False
    count = 0
    for table in EMPTIED_TABLES:
        key = sa.tuple_(*table.primary_key)
        of_job = table.c.job_id == job_id
        page = sa.select(*table.primary_key).where(of_job).limit(limit - count)
        count += tx.conn.execute(sa.delete(table).where(of_job, key.in_(page))).rowcount
        if count >= limit:
            return count, False
    return count, True


def mark_emptied(tx: Tx, job_id: str) -> None:
    """Mark the job as emptied, and clear the columns of its row that the bill does not need."""
    cleared: dict[str, Any] = {
        "request": {},
        "scene": None,
        "warnings": [],
        "frames": None,
        "scouts": "",
        "scene_path": None,
    }
    change = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.deleted_ms.is_not(None))
    tx.conn.execute(change.values(emptied_ms=tx.now_ms, **cleared))


def empty_deleted_jobs(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Remove rows and thumbnails of the jobs that may be emptied."""
    job_ids, after = retention_pass.read(due_jobs, "")
    while after is not None:
        for job_id in job_ids:
            yield from _empty_job(retention_pass, job_id)
        job_ids, after = retention_pass.read(due_jobs, after)


def _empty_job(retention_pass: RetentionPass, job_id: str) -> Iterator[Removed]:
    account = retention_pass.read(_account_of, job_id)
    folder = retention_pass.context.store.path(keys.thumbnails(account, job_id))
    sizes = [path.stat().st_size for path in folder.glob("*.webp")]
    if retention_pass.dry_run:
        yield Removed("deleted_jobs", retention_pass.read(count_rows, job_id) or 0, len(sizes), sum(sizes))
        return
    done = False
    while not done:
        count, done = retention_pass.write(remove_rows, job_id, retention_pass.limit)
        yield Removed("deleted_jobs", rows=count)
        if not count and not done:
            return  # busy again: the next pass empties it
    thumbnails.remove(retention_pass.context, account, job_id)
    retention_pass.write(mark_emptied, job_id)
    yield Removed("deleted_jobs", files=len(sizes), bytes=sum(sizes))


def _account_of(tx: Tx, job_id: str) -> str:
    account: str = tx.conn.execute(sa.select(jobs.c.account_id).where(jobs.c.id == job_id)).scalar_one()
    return account


# ------------------------------------------------------------------------------ old jobs


def old_jobs(tx: Tx, jobs_ms: int, after: str) -> list[str]:
    """A page of jobs that ended `jobs_ms` ago and have no dependents, in order of ids above `after`."""
    dependents = sa.select(job_dependencies.c.job_id).where(job_dependencies.c.depends_on == jobs.c.id)
    query = (
        sa.select(jobs.c.id)
        .join(job_state, job_state.c.job_id == jobs.c.id)
        .where(
            job_state.c.status.in_([str(s) for s in FINISHED]),
            job_state.c.ended_ms < tx.now_ms - jobs_ms,
            jobs.c.deleted_ms.is_(None),
            jobs.c.id > after,
            ~sa.exists(dependents),
        )
    )
    return list(tx.conn.execute(query.order_by(jobs.c.id).limit(PAGE)).scalars())


def delete_if_old(tx: Tx, job_id: str, jobs_ms: int) -> int:
    """Delete the job as an actor would, if it ended `jobs_ms` ago; returns the number of jobs deleted."""
    state = job_states.lock(tx, job_id)
    finished = state.status in {str(s) for s in FINISHED}
    if not finished or state.ended_ms is None or state.ended_ms >= tx.now_ms - jobs_ms:
        return 0
    deleted = sa.select(jobs.c.deleted_ms).where(jobs.c.id == job_id)
    if tx.conn.execute(deleted).scalar_one() is not None:
        return 0
    actions.mark_deleted(tx, state, "system")
    return 1


def delete_old_jobs(retention_pass: RetentionPass) -> Iterator[Removed]:
    """Delete jobs that ended long ago; none, unless the operator has set `jobs_kept_days`."""
    jobs_ms = retention_pass.policy.jobs_ms
    if jobs_ms is None:
        return
    after = ""
    while job_ids := retention_pass.read(old_jobs, jobs_ms, after):
        after = job_ids[-1]
        if retention_pass.dry_run:
            yield Removed("old_jobs", rows=len(job_ids))
            continue
        for job_id in job_ids:
            yield Removed("old_jobs", rows=retention_pass.write(delete_if_old, job_id, jobs_ms))
