"""A job's tasks, computed from its frames, scouts and chunk size, and cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from framefarm.core.frames import FrameSet
from framefarm.core.task_plan import TaskPlan
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.json_types import Json
from framefarm.server.tenancy import farmwide

KEPT = 1024
"""Most jobs whose terms are cached."""


@lru_cache(maxsize=512)
def _plan(frames: str, scouts: str, chunk_size: int) -> TaskPlan:
    return TaskPlan(FrameSet.from_text(frames), FrameSet.from_text(scouts), chunk_size)


class Planned(Protocol):
    """The columns of a job that its tasks are computed from."""

    @property
    def frames(self) -> str | None: ...
    @property
    def scouts(self) -> str: ...
    @property
    def chunk_size(self) -> int: ...


def plan_of(job: Planned) -> TaskPlan | None:
    """The job's tasks; None until its frames are known."""
    return None if job.frames is None else _plan(job.frames, job.scouts, job.chunk_size)


@dataclass(frozen=True, slots=True)
class JobTerms:
    """Terms of a job for assignments and reports. They do not change once its scene was read."""

    plan: TaskPlan
    frames: FrameSet
    chunk_size: int
    preemptible_retries: int
    task_retries: int


@dataclass(frozen=True, slots=True)
class _TermsRow:
    frames: str | None
    scouts: str
    chunk_size: int
    request: Json


_terms: WeakKeyDictionary[sa.Engine, dict[str, JobTerms]] = WeakKeyDictionary()
"""By the database that they were read from, then by job."""
_TERMS = farmwide(sa.select(jobs.c.frames, jobs.c.scouts, jobs.c.chunk_size, jobs.c.request)).where(
    jobs.c.id == sa.bindparam("job_id")
)


def job_terms_of(tx: Tx, job_id: str) -> JobTerms:
    """The job's terms, read once per process. Only for a job that has tasks."""
    cached = _terms.setdefault(tx.conn.engine, {})
    known = cached.get(job_id)
    if known is None:
        row = tx.row(_TermsRow, _TERMS, {"job_id": job_id})
        plan, request = plan_of(row), row.request
        assert plan is not None and row.frames is not None
        known = JobTerms(
            plan,
            FrameSet.from_text(row.frames),
            row.chunk_size,
            request["preemptible_retries"],
            request["task_retries"],
        )
        if len(cached) >= KEPT:
            cached.clear()
        cached[job_id] = known
    return known
