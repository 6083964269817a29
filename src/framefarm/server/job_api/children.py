"""A job's tasks, frames, files, attempts and logs, a page at a time."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from framefarm.core.errors import NotFound
from framefarm.core.frames import FrameSet
from framefarm.core.job import JobFacts, TaskStatus, hold_reasons, untouched_status
from framefarm.core.money import money
from framefarm.core.output_names import safe_path
from framefarm.core.task_plan import TaskPlan
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.job_api.actions import find_job, find_job_with_files
from framefarm.server.job_api.detail import SignThumbnail, newest
from framefarm.server.job_api.summary import HOLD_WORDS, running, waiting_for
from framefarm.server.jobs import warnings
from framefarm.server.jobs.state import facts
from framefarm.server.jobs.tables import job_state, tasks
from framefarm.server.jobs.task_plans import plan_of
from framefarm.server.json_types import Answer
from framefarm.server.rows import AttemptRow, FileRow, FrameRow, JobRow, JobStateRow, TaskRow
from framefarm.server.sessions.tables import attempts, files, frames
from framefarm.server.storage import keys
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso

SignUrl = Callable[[FileRow], str]


def task_page(tx: Tx, actor: Actor, job_id: str, after: int, limit: int) -> list[Answer]:
    """Up to `limit` tasks with numbers above `after`, computed where they have no row. Raises NotFound."""
    job = find_job(tx, actor, job_id)
    state = tx.row(JobStateRow, farmwide(sa.select(job_state)).where(job_state.c.job_id == job_id))
    plan = plan_of(job)
    if plan is None:
        return []
    last = min(plan.task_count, after + 1 + limit)
    query = sa.select(tasks).where(tasks.c.job_id == job_id, tasks.c.number > after, tasks.c.number < last)
    rows = {row.number: row for row in tx.rows(TaskRow, query)}
    return [task_shape(tx, job, state, plan, n, rows.get(n)) for n in range(after + 1, last)]


def task_shape(
    tx: Tx, job: JobRow, state: JobStateRow, plan: TaskPlan, number: int, row: TaskRow | None
) -> Answer:
    """One task as the API's `JobTask`. `row`: None if it was never assigned."""
    now = facts(state)
    status = untouched_status(now, number) if row is None else row.status
    if status is TaskStatus.PENDING and not now.may_start:
        status = TaskStatus.WAITING
    request = job.request
    return {
        "number": f"{number:0{plan.number_width}d}",
        "status": status,
        "frames": FrameSet.of(plan.frames_of(number)).to_text(),
        "frames_done": row.frames_done if row else 0,
        "attempt_count": row.attempt_count if row else 0,
        "scout": number < plan.scout_count,
        "reason": row.reason if row else None,
        "waiting_for": _task_waits_for(tx, job, state, now, status, row),
        "preemptions_left": max(0, request["preemptible_retries"] - (row.preemptions if row else 0)),
        "retries_left": max(0, request["task_retries"] - (row.failures if row else 0)),
    }


def _task_waits_for(
    tx: Tx, job: JobRow, state: JobStateRow, now: JobFacts, status: TaskStatus, row: TaskRow | None
) -> str | None:
    if status is TaskStatus.PENDING:
        due_ms = row.not_before_ms if row else None
        if due_ms is not None and due_ms > tx.now_ms:
            return f"the end of a pause after it failed, {(due_ms - tx.now_ms + 999) // 1000} s"
        return f"a free {job.instance_type_id} machine"
    if status is not TaskStatus.WAITING:
        return None
    if reasons := hold_reasons(now):
        return "; ".join(HOLD_WORDS[r] for r in reasons)
    if not now.may_start:
        return waiting_for(state, job.instance_type_id, [])
    return "the scouts, which are rendered first"


def one_task(tx: Tx, actor: Actor, job_id: str, number: int) -> Answer:
    """One task as the API's `JobTask`. Raises NotFound."""
    page = task_page(tx, actor, job_id, number - 1, 1) if number >= 0 else []
    if not page:
        raise NotFound(f"Job {job_id} has no task {number}.")
    return page[0]


def frame_page(
    tx: Tx, actor: Actor, job_id: str, after: int, limit: int, sign: SignUrl, sign_thumbnail: SignThumbnail
) -> list[Answer]:
    """Up to `limit` frames of the job in order, from the position after `after`. Raises NotFound.

    `sign` and `sign_thumbnail` make addresses of files and thumbnails.
    """
    job = find_job(tx, actor, job_id)
    plan = plan_of(job)
    if plan is None or job.frames is None:
        return []
    state = tx.row(JobStateRow, farmwide(sa.select(job_state)).where(job_state.c.job_id == job_id))
    all_frames = FrameSet.from_text(job.frames)
    numbers = list(all_frames.slice(after + 1, after + 1 + limit))
    if not numbers:
        return []
    committed = sa.select(frames).where(
        frames.c.job_id == job_id, frames.c.frame >= numbers[0], frames.c.frame <= numbers[-1]
    )
    done = newest(tx.rows(FrameRow, committed))
    by_frame: dict[int, list[FileRow]] = {}
    for file in _files(tx, job_id, numbers[0], numbers[-1]):
        by_frame.setdefault(file.frame, []).append(file)
    task_numbers = {f: plan.task_of(f) for f in numbers}
    query = sa.select(tasks).where(
        tasks.c.job_id == job_id, tasks.c.number.in_(sorted(set(task_numbers.values())))
    )
    rows = {row.number: row for row in tx.rows(TaskRow, query)}
    now = facts(state)
    answer = []
    for frame in numbers:
        row, task = done.get(frame), rows.get(task_numbers[frame])
        status: str = untouched_status(now, task_numbers[frame]) if task is None else task.status
        redo = task is not None and task.redo is not None and frame in FrameSet.from_text(task.redo)
        outdated = redo and task is not None and row is not None and row.revision < task.revision
        if row is not None and not outdated:
            status = "done"
        elif status in {"success", "preempted"}:
            status = "done" if status == "success" else "failed"
        elif status == "pending" and not now.may_start:
            status = "waiting"
        answer.append(
            {
                "frame": frame,
                "status": status,
                "task": task_numbers[frame],
                "attempt": row.attempt_id if row else None,
                "seconds": row.render_ms / 1000 if row else None,
                "files": [
                    file_shape(f, sign)
                    for f in by_frame.get(frame, ())
                    if row is not None and f.revision == row.revision
                ],
                "thumbnail": sign_thumbnail(job.account_id, row) if row else None,
                "warnings": warnings.shown(row.warnings or []) if row else [],
                "revision": row.revision if row else 0,
            }
        )
    return answer


def _files(tx: Tx, job_id: str, first: int, last: int) -> list[FileRow]:
    query = farmwide(sa.select(files)).where(
        files.c.job_id == job_id, files.c.frame >= first, files.c.frame <= last
    )
    return tx.rows(FileRow, query.order_by(files.c.frame, files.c.kind.desc(), files.c.path))


def file_page(
    tx: Tx, actor: Actor, job_id: str, after: int, limit: int, sign: SignUrl
) -> list[tuple[int, Answer]]:
    """(cursor value, file) of committed files in commit order, newest revision of each frame only.

    Also of a deleted job, until its files are forgotten. Raises NotFound.
    """
    find_job_with_files(tx, actor, job_id)
    newer = frames.alias("newer")
    outdated = (
        farmwide(sa.select(newer.c.frame))
        .where(newer.c.job_id == files.c.job_id, newer.c.frame == files.c.frame)
        .where(newer.c.revision > files.c.revision)
        .exists()
    )
    query = farmwide(sa.select(files)).where(files.c.job_id == job_id, files.c.id > after, ~outdated)
    rows = tx.rows(FileRow, query.order_by(files.c.id).limit(limit))
    return [(row.id, file_shape(row, sign)) for row in rows]


def file_shape(row: FileRow, sign: SignUrl) -> Answer:
    """One file as the API's `JobFile`."""
    return {
        "path": row.path,
        "frame": row.frame,
        "kind": row.kind,
        "size": row.size,
        "md5": row.md5,
        "sha256": row.sha256,
        "url": sign(row) if row.replaced_by is None else None,
        "replaced_by": row.replaced_by,
        "download_path": safe_path(row.path),
    }


def attempt_page(tx: Tx, actor: Actor, job_id: str, after: str, limit: int) -> list[Answer]:
    """Up to `limit` attempts in order of assignment, with ids above `after`. Raises NotFound."""
    job = find_job(tx, actor, job_id)
    plan = plan_of(job)
    width = plan.number_width if plan else 3
    query = scoped(sa.select(attempts), attempts, actor.account_id).where(
        attempts.c.job_id == job_id, attempts.c.id > after
    )
    return [
        attempt_shape(tx, row, width)
        for row in tx.rows(AttemptRow, query.order_by(attempts.c.id).limit(limit))
    ]


def attempt_shape(tx: Tx, row: AttemptRow, width: int) -> Answer:
    """One attempt as the API's `JobAttempt`. `width`: digits of its task's number."""
    billed, cost = row.billed_ms, row.cost_micros
    if row.outcome is None:
        billed, cost = running(tx, row.started_ms, row.price_micros)
    return {
        "id": row.id,
        "task": f"{row.task_number:0{width}d}",
        "session": row.session_id,
        "node": row.node,
        "instance_type": row.instance_type_id,
        "preemptible": row.preemptible,
        "zone": row.zone or None,
        "started_at": iso(row.started_ms),
        "ended_at": iso(row.ended_ms),
        "outcome": row.outcome,
        "cause": row.cause,
        "message": row.message,
        "frames_done": row.frames_done,
        "billed_seconds": billed / 1000,
        "price_per_hour": money(row.price_micros),
        "cost": money(cost),
        "peak_memory_bytes": row.peak_memory_bytes,
    }


def log_keys(tx: Tx, actor: Actor, job_id: str, number: int) -> list[str]:
    """Storage keys of the logs of a task's attempts, oldest first. Raises NotFound."""
    one_task(tx, actor, job_id, number)
    query = scoped(sa.select(attempts.c.id), attempts, actor.account_id).where(
        attempts.c.job_id == job_id, attempts.c.task_number == number
    )
    ids = tx.conn.execute(query.order_by(attempts.c.id)).scalars()
    return [keys.log(actor.account_id, i) for i in ids]
