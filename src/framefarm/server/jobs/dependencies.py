"""Rows of `job_dependencies`: which jobs a job still waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from framefarm.core.job import FINISHED, JobStatus
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import job_dependencies, job_state
from framefarm.server.rows import DependencyRow
from framefarm.server.tenancy import farmwide

FAILED = [str(status) for status in FINISHED - {JobStatus.SUCCESS}]
"""Statuses of a job that ended and did not succeed."""


def record(tx: Tx, account_id: str, job_id: str, depends_on: Sequence[str]) -> None:
    """Record the unfinished or failed jobs that a new job waits for."""
    rows = [DependencyRow(job_id, other, account_id) for other in depends_on]
    if rows:
        tx.conn.execute(sa.insert(job_dependencies), [asdict(row) for row in rows])


def dependents_of(tx: Tx, job_id: str) -> Sequence[str]:
    """Ids of the jobs that wait for `job_id`, in order."""
    query = farmwide(sa.select(job_dependencies.c.job_id)).where(job_dependencies.c.depends_on == job_id)
    return tx.conn.execute(query.order_by(job_dependencies.c.job_id)).scalars().all()


def has_failed_one(tx: Tx, job_id: str) -> bool:
    """Whether the job waits for one that failed or was cancelled."""
    query = farmwide(sa.select(job_dependencies.c.job_id)).where(job_dependencies.c.job_id == job_id)
    other = job_state.c.job_id == job_dependencies.c.depends_on
    failed = query.join(job_state, other).where(job_state.c.status.in_(FAILED))
    return tx.conn.execute(failed.limit(1)).first() is not None


def remove(tx: Tx, job_id: str, depends_on: str) -> None:
    """Remove one dependency, as the job waited for succeeded."""
    row = (job_dependencies.c.job_id == job_id) & (job_dependencies.c.depends_on == depends_on)
    tx.conn.execute(farmwide(sa.delete(job_dependencies)).where(row))


def remove_failed(tx: Tx, job_id: str) -> int:
    """Remove the job's dependencies on jobs that failed or were cancelled; returns their number."""
    failed = farmwide(sa.select(job_state.c.job_id)).where(job_state.c.status.in_(FAILED))
    rows = (job_dependencies.c.job_id == job_id) & job_dependencies.c.depends_on.in_(failed)
    return tx.conn.execute(farmwide(sa.delete(job_dependencies)).where(rows)).rowcount
