"""Demand for sessions, as the dispatcher plans from it: jobs with ready tasks, and the live sessions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from framefarm.core import schedule
from framefarm.core.job import FINISHED, JobStatus, TaskStatus
from framefarm.core.session_lease import SessionState
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.jobs.state import facts
from framefarm.server.jobs.tables import job_state, jobs, tasks
from framefarm.server.rows import InstanceTypeRow, JobStateRow, SessionRow
from framefarm.server.sessions.tables import attempts, sessions

FARM_WIDE = "The leader schedules the jobs of all accounts."
T = TypeVar("T")


def unfinished() -> sa.ColumnElement[bool]:
    """Condition on `job_state`. It lists the unfinished statuses, so that the index on the status is used."""
    return job_state.c.status.in_([str(s) for s in JobStatus if s not in FINISHED])


@dataclass(slots=True)
class LiveSession(SessionRow):
    """A session that has not ended, with the facts of its job that the plan needs."""

    job_status: JobStatus
    priority: int
    user_id: str
    title: str
    held: int
    """Attempts that have not ended."""


def live_sessions(tx: Tx) -> list[LiveSession]:
    """All sessions that have not ended."""
    held = sa.select(sa.func.count()).select_from(attempts)
    held = held.where(attempts.c.session_id == sessions.c.id, attempts.c.outcome.is_(None))
    query = (
        sa.select(
            sessions,
            job_state.c.status.label("job_status"),
            job_state.c.priority,
            jobs.c.user_id,
            jobs.c.title,
            held.scalar_subquery().label("held"),
        )
        .join(job_state, job_state.c.job_id == sessions.c.job_id)
        .join(jobs, jobs.c.id == sessions.c.job_id)
    ).where(~sessions.c.ended)
    return tx.rows(LiveSession, query)


def slots_held(live: Sequence[LiveSession]) -> list[schedule.Session]:
    """Live sessions in the form that the plan takes."""
    return [
        schedule.Session(
            session=s.id,
            job=s.job_id,
            account=s.account_id,
            user=s.user_id,
            priority=s.priority,
            preemptible=s.preemptible,
            node=s.node,
            slot=schedule.Slot(s.cores, s.memory_bytes, s.gpus),
            started_ms=s.created_ms,
            idle_since_ms=s.idle_since_ms if s.state in {SessionState.READY, SessionState.IDLE} else None,
            leaving=s.drain or s.cancel,
            silent=s.state is SessionState.LOST,
        )
        for s in live
    ]


@dataclass(slots=True)
class _UnfinishedJob(JobStateRow):
    created_ms: int
    user_id: str
    instance_type_id: str
    preemptible: bool
    max_sessions: int | None


def demand(
    tx: Tx, live: Sequence[LiveSession], avoided: Mapping[str, Mapping[str, object]]
) -> tuple[list[schedule.Demand], dict[str, InstanceTypeRow]]:
    """Jobs with tasks that could be assigned now, and all instance types by id.

    `avoided`: job → nodes that it does not use now.
    """
    types = {row.id: row for row in tx.rows(InstanceTypeRow, sa.select(instance_types))}
    query = (
        sa.select(
            job_state,
            jobs.c.created_ms,
            jobs.c.user_id,
            jobs.c.instance_type_id,
            jobs.c.preemptible,
            jobs.c.request["max_sessions"].as_integer().label("max_sessions"),
        ).join(jobs, jobs.c.id == job_state.c.job_id)
    ).where(unfinished(), jobs.c.deleted_ms.is_(None))
    rows = [(job, facts(job).ready) for job in tx.rows(_UnfinishedJob, query)]
    paused = _paused(tx) if any(r.rows_pending for r, _ in rows) else {}
    served = _served(tx, [r.job_id for r, ready in rows if ready])
    sessions_of = group_by(live, lambda session: session.job_id)
    demands = []
    for row, ready in rows:
        ready -= paused.get(row.job_id, 0)
        if ready <= 0:
            continue
        own_sessions = sessions_of[row.job_id]
        demands.append(
            schedule.Demand(
                job=row.job_id,
                account=row.account_id,
                user=row.user_id,
                priority=row.priority,
                created_ms=row.created_ms,
                instance_type=row.instance_type_id,
                preemptible=row.preemptible,
                slot=slot_of(types[row.instance_type_id]),
                ready=ready,
                max_sessions=row.max_sessions,
                sessions=len(own_sessions),
                starting=sum(
                    s.held == 0 and s.state is not SessionState.LOST and not s.drain for s in own_sessions
                ),
                served_ms=served.get(row.job_id, 0),
                avoid=frozenset(avoided.get(row.job_id, ())),
            )
        )
    return demands, types


def slot_of(instance_type: InstanceTypeRow) -> schedule.Slot:
    return schedule.Slot(instance_type.cores, instance_type.memory_bytes, instance_type.gpu_count)


def group_by(items: Iterable[T], key: Callable[[T], str]) -> defaultdict[str, list[T]]:
    """Items by key, in one pass: a farm may have 10,000 sessions on as many nodes."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _paused(tx: Tx) -> dict[str, int]:
    """Job → number of tasks that pause after a failure."""
    query = sa.select(tasks.c.job_id, sa.func.count()).where(
        tasks.c.status == TaskStatus.PENDING, tasks.c.not_before_ms > tx.now_ms
    )
    return {job: int(number) for job, number in tx.conn.execute(query.group_by(tasks.c.job_id))}


def _served(tx: Tx, job_ids: list[str]) -> dict[str, int]:
    """Job → time in ms at which its newest session was created."""
    newest = sa.select(sessions.c.job_id, sa.func.max(sessions.c.created_ms))
    query = newest.where(sessions.c.job_id.in_(job_ids)).group_by(sessions.c.job_id)
    return {job: int(at) for job, at in tx.conn.execute(query)} if job_ids else {}


def next_pause_end_ms(tx: Tx) -> int | None:
    """Time in ms at which the next pause of a task ends."""
    query = sa.select(sa.func.min(tasks.c.not_before_ms)).where(
        tasks.c.status == TaskStatus.PENDING, tasks.c.not_before_ms > tx.now_ms
    )
    return tx.conn.execute(query).scalar()


def jobs_with_ended_pause(tx: Tx, since_ms: int) -> list[str]:
    """Jobs with a task whose pause has ended after `since_ms`."""
    query = sa.select(tasks.c.job_id).where(
        tasks.c.status == TaskStatus.PENDING,
        tasks.c.not_before_ms > since_ms,
        tasks.c.not_before_ms <= tx.now_ms,
    )
    return list(tx.conn.execute(query.distinct()).scalars())
