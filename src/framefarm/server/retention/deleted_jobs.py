"""Jobs that are old enough to be deleted, and what deleted ones leave behind.

What the bill needs of a deleted job stays: its row, with its title and project, its state, and its attempts,
which are the usage. All else goes, some rows at a time.
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
from framefarm.server.tenancy import farmwide

PAGE = 50
PARTS: tuple[sa.Table, ...] = (
    frames, files, tasks, missing_paths, job_dependencies, mails, progress, budget_holds,
)  # fmt: skip


def _count(table: sa.Table, *where: Any) -> sa.ScalarSelect[int]:
    query = farmwide(sa.select(sa.func.count()).select_from(table))
    return query.where(table.c.job_id == jobs.c.id, *where).scalar_subquery()


def _facts(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """These columns, then what a `DeletedJob` is made of, of each that is not emptied."""
    query = sa.select(
        *columns,
        jobs.c.deleted_ms,
        _count(sessions, ~sessions.c.ended),
        _count(files, files.c.published_ms.is_(None)),
        _count(mails, mails.c.status == "pending"),
    )
    return farmwide(query).where(jobs.c.deleted_ms.is_not(None), jobs.c.emptied_ms.is_(None))


def due(tx: Tx, after: str) -> tuple[list[str], str | None]:
    """Deleted jobs that may be emptied, in order of ids; and the last that was looked at, None at the end."""
    facts = _facts(jobs.c.id).where(jobs.c.deleted_ms < tx.now_ms - DELETED_MS, jobs.c.id > after)
    found = tx.conn.execute(facts.order_by(jobs.c.id).limit(PAGE)).all()
    ready = [row.id for row in found if may_be_emptied(DeletedJob(*row[1:]), tx.now_ms)]
    return ready, found[-1].id if found else None


def facts_of(tx: Tx, job_id: str) -> DeletedJob | None:
    """None: it is not deleted, or it is emptied."""
    row = tx.conn.execute(_facts().where(jobs.c.id == job_id)).one_or_none()
    return None if row is None else DeletedJob(*row)


def rows_of(tx: Tx, job_id: str) -> int | None:
    """How many rows the job would leave behind; None: it is not to be emptied now."""
    facts = facts_of(tx, job_id)
    if facts is None or not may_be_emptied(facts, tx.now_ms):
        return None
    counts = [sa.select(sa.func.count()).select_from(t).where(t.c.job_id == job_id) for t in PARTS]
    return sum(int(tx.conn.execute(query).scalar_one()) for query in counts)


def empty(tx: Tx, job_id: str, limit: int) -> tuple[int, bool]:
    """Remove up to `limit` of its rows: (how many, whether none is left). Locks the job."""
    job_states.lock(tx, job_id)
    facts = facts_of(tx, job_id)
    if facts is None or not may_be_emptied(facts, tx.now_ms):
        return 0, False
    count = 0
    for table in PARTS:
        key = sa.tuple_(*table.primary_key)
        mine = table.c.job_id == job_id
        some = sa.select(*table.primary_key).where(mine).limit(limit - count)
        count += tx.conn.execute(sa.delete(table).where(mine, key.in_(some))).rowcount
        if count >= limit:
            return count, False
    return count, True


def mark_emptied(tx: Tx, job_id: str) -> None:
    """What is left of its row is what the bill needs."""
    left: dict[str, Any] = {
        "request": {},
        "scene": None,
        "warnings": [],
        "frames": None,
        "scouts": "",
        "scene_path": None,
    }
    mine = farmwide(sa.update(jobs)).where(jobs.c.id == job_id, jobs.c.deleted_ms.is_not(None))
    tx.conn.execute(mine.values(emptied_ms=tx.now_ms, **left))


def empty_deleted(run: RetentionPass) -> Iterator[Removed]:
    names, after = run.read(due, "")
    while after is not None:
        for job_id in names:
            yield from _empty_one(run, job_id)
        names, after = run.read(due, after)


def _empty_one(run: RetentionPass, job_id: str) -> Iterator[Removed]:
    account = run.read(_account_of, job_id)
    folder = run.context.store.path(keys.thumbnails(account, job_id))
    drawn = [path.stat().st_size for path in folder.glob("*.webp")]
    if run.dry:
        yield Removed("deleted_jobs", run.read(rows_of, job_id) or 0, len(drawn), sum(drawn))
        return
    done = False
    while not done:
        count, done = run.write(empty, job_id, run.limit)
        yield Removed("deleted_jobs", rows=count)
        if not count and not done:
            return  # it is busy again
    thumbnails.remove(run.context, account, job_id)
    run.write(mark_emptied, job_id)
    yield Removed("deleted_jobs", files=len(drawn), bytes=sum(drawn))


def _account_of(tx: Tx, job_id: str) -> str:
    account: str = tx.conn.execute(
        farmwide(sa.select(jobs.c.account_id)).where(jobs.c.id == job_id)
    ).scalar_one()
    return account


# ------------------------------------------------------------------------------ old jobs


def old(tx: Tx, jobs_ms: int, after: str) -> list[str]:
    """Finished long ago, and nobody waits for how they ended."""
    waited_for = farmwide(sa.select(job_dependencies.c.job_id)).where(
        job_dependencies.c.depends_on == jobs.c.id
    )
    query = farmwide(sa.select(jobs.c.id).join(job_state, job_state.c.job_id == jobs.c.id)).where(
        job_state.c.status.in_([str(s) for s in FINISHED]),
        job_state.c.ended_ms < tx.now_ms - jobs_ms,
        jobs.c.deleted_ms.is_(None),
        jobs.c.id > after,
        ~sa.exists(waited_for),
    )
    return list(tx.conn.execute(query.order_by(jobs.c.id).limit(PAGE)).scalars())


def delete_old(tx: Tx, job_id: str, jobs_ms: int) -> int:
    """As if somebody deleted it, if it is still finished for so long."""
    state = job_states.lock(tx, job_id)
    finished = state.status in {str(s) for s in FINISHED}
    if not finished or state.ended_ms is None or state.ended_ms >= tx.now_ms - jobs_ms:
        return 0
    deleted = farmwide(sa.select(jobs.c.deleted_ms)).where(jobs.c.id == job_id)
    if tx.conn.execute(deleted).scalar_one() is not None:
        return 0
    actions.mark_deleted(tx, state, "system")
    return 1


def collect_old(run: RetentionPass) -> Iterator[Removed]:
    jobs_ms = run.keeping.jobs_ms
    if jobs_ms is None:
        return
    after = ""
    while names := run.read(old, jobs_ms, after):
        after = names[-1]
        if run.dry:
            yield Removed("old_jobs", rows=len(names))
            continue
        for job_id in names:
            yield Removed("old_jobs", rows=run.write(delete_old, job_id, jobs_ms))
