"""Jobs as lists show them; the detail of a job begins with the same fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import InvalidInput
from framefarm.core.job import JobStatus, hold_reasons, untouched_status
from framefarm.core.money import cost_micros, money
from framefarm.server.accounts.tables import users
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.jobs.state import facts
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.json_types import Answer
from framefarm.server.projects.tables import projects
from framefarm.server.rows import JobStateRow
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso

HOLD_WORDS = {
    "user": "a person holds it: unhold to go on",
    "budget": "a budget is used up: it goes on by itself when an admin raises or removes that",
    "rule": "a warning holds it: read the warnings, then unhold to go on in spite of it",
    "dependency": "a job it depends on did not succeed: retry that one, or unhold to go on without it",
    "scouts": "scouts are done: unhold to render the rest",
}


@dataclass(slots=True)
class ListedJob(JobStateRow):
    """A job as lists show it: its state, and the few columns of `jobs` that a list needs."""

    title: str
    created_ms: int
    instance_type_id: str
    preemptible: bool
    package_id: str
    project_name: str
    user_email: str
    frame_range: str


def listed_jobs(account_id: str) -> sa.Select[Any]:
    """Query of `ListedJob` rows of one account."""
    query = (
        sa.select(
            job_state,
            jobs.c.title,
            jobs.c.created_ms,
            jobs.c.instance_type_id,
            jobs.c.preemptible,
            jobs.c.package_id,
            projects.c.name.label("project_name"),
            users.c.email.label("user_email"),
            jobs.c.request["frame_range"].as_string().label("frame_range"),
        )
        .join(jobs, jobs.c.id == job_state.c.job_id)
        .join(projects, projects.c.id == jobs.c.project_id)
        .join(users, users.c.id == jobs.c.user_id)
    )
    return scoped(query, jobs, account_id)


def listing(
    tx: Tx,
    actor: Actor,
    *,
    status: str | None,
    project: str | None,
    user: str | None,
    q: str | None,
    created_after_ms: int | None,
    created_before_ms: int | None,
    after: str | None,
    limit: int,
) -> list[Answer]:
    """The account's jobs, newest first; up to `limit` with ids below `after`. Raises InvalidInput."""
    query = listed_jobs(actor.account_id).where(jobs.c.deleted_ms.is_(None))
    if status is not None:
        known = [str(s) for s in JobStatus]
        if status not in known:
            raise InvalidInput.of("status", f"must be one of {', '.join(known)}", status)
        query = query.where(job_state.c.status == status)
    if project is not None:
        query = query.where(projects.c.name == project)
    if user is not None:
        query = query.where(users.c.email == user.lower())
    if q:
        query = query.where(jobs.c.title.icontains(q, autoescape=True))
    if created_after_ms is not None:
        query = query.where(jobs.c.created_ms > created_after_ms)
    if created_before_ms is not None:
        query = query.where(jobs.c.created_ms < created_before_ms)
    if after is not None:
        query = query.where(jobs.c.id < after)
    rows = tx.rows(ListedJob, query.order_by(jobs.c.id.desc()).limit(limit))
    costs_by_job = running_costs(tx, [row.job_id for row in rows])
    return [summary(row, costs_by_job.get(row.job_id, 0)) for row in rows]


def running_costs(tx: Tx, job_ids: list[str]) -> dict[str, int]:
    """Cost until now of each job's attempts in work, in micro-dollars, by job id."""
    query = farmwide(
        sa.select(attempts.c.job_id, attempts.c.started_ms, attempts.c.price_micros)
        .join(sessions, sessions.c.id == attempts.c.session_id)
        .where(
            sessions.c.job_id.in_(job_ids),
            ~sessions.c.ended,
            attempts.c.outcome.is_(None),
            attempts.c.started_ms.is_not(None),
        )
    )
    costs: dict[str, int] = {}
    for job_id, started_ms, price_micros in tx.conn.execute(query):
        costs[job_id] = costs.get(job_id, 0) + running(tx, started_ms, price_micros)[1]
    return costs


def running(tx: Tx, started_ms: int | None, price_micros: int) -> tuple[int, int]:
    """(milliseconds, micro-dollars) of a running attempt, until now. `price_micros`: per hour."""
    spent_ms = 0 if started_ms is None else max(0, tx.now_ms - started_ms)
    return spent_ms, cost_micros(spent_ms, price_micros)


def summary(row: ListedJob, running_micros: int) -> Answer:
    """A job as the API's lists show it. `running_micros`: cost until now of its attempts in work."""
    now = facts(row)
    reasons = hold_reasons(now) if row.status is JobStatus.HOLDING else sorted(now.holds)
    task_counts = frame_counts = None
    if row.task_count is not None and row.frame_count is not None:
        rest = str(untouched_status(now, max(now.next, 0)))
        behind = max(0, row.task_count - max(now.limit, now.next))
        ahead = now.untouched - behind
        task_counts = {
            "total": row.task_count, "waiting": 0, "pending": row.rows_pending,
            "running": row.rows_running, "success": row.rows_success, "failed": row.rows_failed,
            "preempted": row.rows_preempted, "cancelled": row.rows_cancelled,
        }  # fmt: skip
        task_counts[rest if ahead else "waiting"] += ahead
        closed = "cancelled" if now.cancel_asked or now.failed else "waiting"
        task_counts[closed] += behind
        if not now.may_start and row.rows_pending:
            task_counts["waiting"] += task_counts["pending"]
            task_counts["pending"] = 0
        frame_counts = {
            "total": row.frame_count,
            "done": row.frames_done,
            "left": row.frame_count - row.frames_done,
        }
    return {
        "id": row.job_id,
        "job_title": row.title,
        "project": row.project_name,
        "user": row.user_email,
        "status": row.status,
        "status_since": iso(row.status_since_ms),
        "hold_reasons": reasons,
        "waiting_for": waiting_for(row, row.instance_type_id, reasons),
        "priority": row.priority,
        "instance_type": row.instance_type_id,
        "preemptible": row.preemptible,
        "blender_version": row.package_id,
        "frame_range": row.frame_range,
        "progress": row.frames_done / row.frame_count if row.frame_count else 0.0,
        "frames": frame_counts,
        "tasks": task_counts,
        "cost": money(row.cost_micros + running_micros),
        "created_at": iso(row.created_ms),
        "started_at": iso(row.started_ms),
        "ended_at": iso(row.ended_ms),
    }


def waiting_for(row: JobStateRow, instance_type_id: str, reasons: list[str]) -> str | None:
    """The reason, in words, why a job does not render now; None while it renders, and once it has ended."""
    status, now = row.status, facts(row)
    if status is JobStatus.HOLDING:
        return "; ".join(HOLD_WORDS[r] for r in reasons)
    if status is JobStatus.SYNCING:
        return f"{row.missing} of its files: upload what missing_paths lists"
    if status is JobStatus.PENDING:
        if now.depends_left:
            return "jobs it depends on"
        if not now.scene_read:
            return "the farm reads the scene"
        return f"a free {instance_type_id} machine"
    if status is JobStatus.RUNNING and row.unpublished and not row.rows_running:
        return "its frames to be delivered to output_path"
    return None
