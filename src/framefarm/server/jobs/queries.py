"""Reading jobs: lists, the detail, and the sub-resources. Shapes are those of `protocol/api_jobs.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.core.frames import FrameSet
from framefarm.core.job import JobFacts, JobStatus, hold_reasons, untouched_status
from framefarm.core.money import cost_micros
from framefarm.server.accounts.tables import users
from framefarm.server.actor import Actor
from framefarm.server.catalog.tables import packages
from framefarm.server.database import Tx
from framefarm.server.events import progress
from framefarm.server.files.tables import missing_paths
from framefarm.server.jobs.actions import find
from framefarm.server.jobs.outlook import outlook
from framefarm.server.jobs.plans import plan_of
from framefarm.server.jobs.state import facts
from framefarm.server.jobs.tables import job_dependencies, job_state, jobs, tasks
from framefarm.server.projects.tables import projects
from framefarm.server.rendering.tables import attempts, files, frames, sessions
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.times import iso

SignUrl = Callable[[Any], str]
SignThumbnail = Callable[[str, Any], str | None]
"""From an account and a row of `frames`."""
HOLD_WORDS = {
    "user": "a person holds it: unhold to go on",
    "budget": "a budget holds it: raise the budget to go on",
    "rule": "a rule holds it: see its warnings, then unhold to go on",
    "dependency": "a job it depends on did not succeed: unhold to go on all the same",
    "scouts": "scouts are done: unhold to render the rest",
}


def money(micros: int) -> dict[str, Any]:
    return {"amount_micros": micros, "currency": "USD"}


HEAVY = frozenset({"request", "warnings", "scene", "frames", "scouts"})
"""Columns that a list does without: each may be as large as a job is."""


def _base(account_id: str, leave_out: Collection[str] = ()) -> sa.Select[Any]:
    columns = [c for c in jobs.columns if c.name not in leave_out]
    columns += [c for c in job_state.columns if c.name not in {"account_id"}]
    more = (
        projects.c.name.label("project_name"),
        users.c.email.label("user_email"),
        jobs.c.request["frame_range"].as_string().label("frame_range"),
    )
    query = (
        sa.select(*columns, *more)
        .join(job_state, job_state.c.job_id == jobs.c.id)
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
) -> list[dict[str, Any]]:
    """Newest first; up to `limit` jobs with ids below `after`."""
    query = _base(actor.account_id, HEAVY).where(jobs.c.deleted_ms.is_(None))
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
    rows = tx.conn.execute(query.order_by(jobs.c.id.desc()).limit(limit)).mappings().all()
    running = _running_costs(tx, [r["id"] for r in rows])
    return [_summary(row, running.get(row["id"], 0)) for row in rows]


def _running_costs(tx: Tx, job_ids: list[str]) -> dict[str, int]:
    """What each job's attempts in work have cost until now, micro-dollars; live sessions hold them."""
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
    for row in tx.conn.execute(query).mappings():
        costs[row["job_id"]] = costs.get(row["job_id"], 0) + _running(tx, row)[1]
    return costs


def _running(tx: Tx, attempt: Any) -> tuple[int, int]:
    """(milliseconds, micro-dollars) of an attempt in work, until now."""
    spent = max(0, tx.now_ms - attempt["started_ms"]) if attempt["started_ms"] is not None else 0
    return spent, cost_micros(spent, attempt["price_micros"])


def _summary(row: Any, running_cost: int) -> dict[str, Any]:
    now = facts(row)
    reasons = hold_reasons(now) if row["status"] == JobStatus.HOLDING else sorted(now.holds)
    task_counts = frame_counts = None
    if row["task_count"] is not None:
        rest = str(untouched_status(now, max(now.next, 0)))
        behind = max(0, row["task_count"] - max(now.limit, now.next))
        ahead = now.untouched - behind
        task_counts = {
            "total": row["task_count"], "waiting": 0, "pending": row["rows_pending"],
            "running": row["rows_running"], "success": row["rows_success"], "failed": row["rows_failed"],
            "preempted": row["rows_preempted"], "cancelled": row["rows_cancelled"],
        }  # fmt: skip
        task_counts[rest if ahead else "waiting"] += ahead
        closed = "cancelled" if now.cancel_asked or now.failed else "waiting"
        task_counts[closed] += behind
        if not now.may_start and row["rows_pending"]:
            task_counts["waiting"] += task_counts["pending"]
            task_counts["pending"] = 0
        frame_counts = {
            "total": row["frame_count"],
            "done": row["frames_done"],
            "left": row["frame_count"] - row["frames_done"],
        }
    return {
        "id": row["id"],
        "job_title": row["title"],
        "project": row["project_name"],
        "user": row["user_email"],
        "status": row["status"],
        "status_since": iso(row["status_since_ms"]),
        "hold_reasons": reasons,
        "waiting_for": _waiting_for(row, now, reasons),
        "priority": row["priority"],
        "instance_type": row["instance_type_id"],
        "preemptible": row["preemptible"],
        "blender_version": row["package_id"],
        "frame_range": row["frame_range"],
        "progress": row["frames_done"] / row["frame_count"] if row["frame_count"] else 0.0,
        "frames": frame_counts,
        "tasks": task_counts,
        "cost": money(row["cost_micros"] + running_cost),
        "created_at": iso(row["created_ms"]),
        "started_at": iso(row["started_ms"]),
        "ended_at": iso(row["ended_ms"]),
    }


def _waiting_for(row: Any, now: Any, reasons: list[str]) -> str | None:
    status = row["status"]
    if status == JobStatus.HOLDING:
        return "; ".join(HOLD_WORDS[r] for r in reasons)
    if status == JobStatus.SYNCING:
        return f"{row['missing']} of its files: upload what missing_paths lists"
    if status == JobStatus.PENDING:
        if now.depends_left:
            return "jobs it depends on"
        if not now.scene_read:
            return "the farm reads the scene"
        return f"a free {row['instance_type_id']} machine"
    if status == JobStatus.RUNNING and row["unpublished"] and not row["rows_running"]:
        return "its frames to be delivered to output_path"
    return None


def detail(tx: Tx, actor: Actor, job_id: str, sign: SignThumbnail) -> tuple[dict[str, Any], tuple[str, str]]:
    """The job, and (account, manifest SHA-256) from which its inputs are read outside the transaction."""
    find(tx, actor, job_id)
    row = tx.conn.execute(_base(actor.account_id).where(jobs.c.id == job_id)).mappings().one()
    running = _running_costs(tx, [job_id]).get(job_id, 0)
    answer = _summary(row, running)
    request = row["request"]
    cause, message = _cause(tx, row)
    missing = farmwide(sa.select(missing_paths.c.path)).where(missing_paths.c.job_id == job_id)
    depends = farmwide(sa.select(job_dependencies.c.depends_on)).where(job_dependencies.c.job_id == job_id)
    live = farmwide(sa.select(sa.func.count()).select_from(sessions)).where(
        sessions.c.job_id == job_id, ~sessions.c.ended
    )
    release = sa.select(packages.c.release).where(packages.c.id == row["package_id"])
    mean = None if row["frame_ms"] is None else row["frame_ms"] / 1000
    left = row["frame_count"] - row["frames_done"] if row["frame_count"] is not None else None
    machines = max(1, tx.conn.execute(live).scalar_one())
    answer |= {
        name: request.get(name)
        for name in (
            "preemptible_retries", "chunk_size", "scout_frames", "render_software", "output_path",
            "environment_variables", "max_sessions", "task_retries", "max_task_runtime_seconds",
            "metadata", "hold", "scene", "camera", "view_layers", "resolution_percentage", "samples",
            "notify",
        )
    }  # fmt: skip
    answer |= {
        "on_missing_files": request.get("on_missing_files", "warn"),
        "on_blocked_scripts": request.get("on_blocked_scripts", "hold"),
        "addons": request.get("addons", []),
        "scene_path": row["scene_path"],
        "output_url": row["output_url"],
        "depends_on": request.get("depends_on") or sorted(tx.conn.execute(depends).scalars()),
        "cause": cause,
        "message": message,
        "warnings": _with_pictures(tx, row, sign),
        "missing_paths": sorted(tx.conn.execute(missing).scalars()),
        "scene_info": row["scene"] and {k: v for k, v in row["scene"].items() if k != "aliases"},
        "average_frame_seconds": mean,
        "remaining_seconds": None if mean is None or left is None else mean * left / machines,
        "forecast": outlook(tx, row, row["cost_micros"] + running),
        "blender_release": tx.conn.execute(release).scalar_one_or_none(),
        "frames_in_work": progress.in_work(tx, job_id),
    }
    return answer, (row["account_id"], row["manifest_sha256"])


def _with_pictures(tx: Tx, row: Any, sign: SignThumbnail) -> list[dict[str, Any]]:
    """The job's warnings; those about a picture with its thumbnail."""
    numbers = sorted({w["frame"] for w in row["warnings"] if w.get("frame") is not None})
    if not numbers:
        return list(row["warnings"])
    query = farmwide(sa.select(frames)).where(frames.c.job_id == row["id"], frames.c.frame.in_(numbers))
    newest = _newest(tx.conn.execute(query).mappings())
    signed = {n: sign(row["account_id"], f) for n, f in newest.items()}
    return [w | {"thumbnail": signed.get(w.get("frame"))} for w in row["warnings"]]


def _cause(tx: Tx, row: Any) -> tuple[str | None, str | None]:
    """Why it failed, in one sentence: the whole job's reason, else the first failed task's."""
    if row["failed_cause"] is not None:
        return row["failed_cause"], row["failed_message"]
    if not row["rows_failed"] and not row["rows_preempted"]:
        return None, None
    query = sa.select(tasks.c.number, tasks.c.cause, tasks.c.reason, tasks.c.status).where(
        tasks.c.job_id == row["id"], tasks.c.status.in_(["failed", "preempted"])
    )
    first = tx.conn.execute(query.order_by(tasks.c.number).limit(1)).one()
    count = row["rows_failed"] + row["rows_preempted"]
    more = f" ({count} tasks ended so.)" if count > 1 else ""
    return first.cause or first.status, f"Task {first.number}: {first.reason or first.status}{more}"


def task_page(tx: Tx, actor: Actor, job_id: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Tasks with numbers above `after`, computed where they have no row."""
    job = find(tx, actor, job_id)
    state = (
        tx.conn.execute(farmwide(sa.select(job_state)).where(job_state.c.job_id == job_id)).mappings().one()
    )
    plan = plan_of(job)
    if plan is None:
        return []
    last = min(plan.task_count, after + 1 + limit)
    query = sa.select(tasks).where(tasks.c.job_id == job_id, tasks.c.number > after, tasks.c.number < last)
    rows = {r["number"]: r for r in tx.conn.execute(query).mappings()}
    return [task_shape(tx, job, state, plan, n, rows.get(n)) for n in range(after + 1, last)]


def task_shape(tx: Tx, job: Any, state: Any, plan: Any, number: int, row: Any) -> dict[str, Any]:
    now = facts(state)
    status = str(untouched_status(now, number)) if row is None else row["status"]
    if status == "pending" and not now.may_start:
        status = "waiting"
    request = job["request"]
    return {
        "number": f"{number:0{plan.number_width}d}",
        "status": status,
        "frames": FrameSet.of(plan.frames_of(number)).to_text(),
        "frames_done": row["frames_done"] if row else 0,
        "attempt_count": row["attempt_count"] if row else 0,
        "scout": number < plan.scout_count,
        "reason": row["reason"] if row else None,
        "waiting_for": _task_waits_for(tx, job, state, now, status, row),
        "preemptions_left": max(0, request["preemptible_retries"] - (row["preemptions"] if row else 0)),
        "retries_left": max(0, request["task_retries"] - (row["failures"] if row else 0)),
    }


def _task_waits_for(tx: Tx, job: Any, state: Any, now: JobFacts, status: str, row: Any) -> str | None:
    if status == "pending":
        due_ms = row["not_before_ms"] if row else None
        if due_ms is not None and due_ms > tx.now_ms:
            return f"the end of a pause after it failed, {(due_ms - tx.now_ms + 999) // 1000} s"
        return f"a free {job['instance_type_id']} machine"
    if status != "waiting":
        return None
    if reasons := hold_reasons(now):
        return "; ".join(HOLD_WORDS[r] for r in reasons)
    if not now.may_start:
        return _waiting_for({**state, "instance_type_id": job["instance_type_id"]}, now, [])
    return "the scouts, which are rendered first"


def one_task(tx: Tx, actor: Actor, job_id: str, number: int) -> dict[str, Any]:
    found = task_page(tx, actor, job_id, number - 1, 1) if number >= 0 else []
    if not found:
        raise NotFound(f"Job {job_id} has no task {number}.")
    return found[0]


def frame_page(
    tx: Tx, actor: Actor, job_id: str, after: int, limit: int, sign: SignUrl, draw: SignThumbnail
) -> list[dict[str, Any]]:
    """Every frame of the job in order, begun or not; positions above `after`."""
    job = find(tx, actor, job_id)
    plan = plan_of(job)
    if plan is None:
        return []
    state = (
        tx.conn.execute(farmwide(sa.select(job_state)).where(job_state.c.job_id == job_id)).mappings().one()
    )
    all_frames = FrameSet.from_text(job["frames"])
    numbers = list(all_frames.slice(after + 1, after + 1 + limit))
    if not numbers:
        return []
    done = _newest(
        tx.conn.execute(
            sa.select(frames).where(
                frames.c.job_id == job_id, frames.c.frame >= numbers[0], frames.c.frame <= numbers[-1]
            )
        ).mappings()
    )
    by_frame: dict[int, list[Any]] = {}
    for file in _files(tx, job_id, numbers[0], numbers[-1]):
        by_frame.setdefault(file["frame"], []).append(file)
    task_numbers = {f: plan.task_of(f) for f in numbers}
    query = sa.select(tasks).where(
        tasks.c.job_id == job_id, tasks.c.number.in_(sorted(set(task_numbers.values())))
    )
    rows = {r["number"]: r for r in tx.conn.execute(query).mappings()}
    now = facts(state)
    answer = []
    for frame in numbers:
        row, task = done.get(frame), rows.get(task_numbers[frame])
        status = str(untouched_status(now, task_numbers[frame])) if task is None else task["status"]
        redo = task is not None and bool(task["redo"]) and frame in FrameSet.from_text(task["redo"])
        outdated = redo and task is not None and row is not None and row["revision"] < task["revision"]
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
                "attempt": row["attempt_id"] if row else None,
                "seconds": row["render_ms"] / 1000 if row else None,
                "files": [
                    file_shape(f, sign)
                    for f in by_frame.get(frame, ())
                    if row is not None and f["revision"] == row["revision"]
                ],
                "thumbnail": draw(job["account_id"], row) if row else None,
                "warnings": (row["warnings"] or []) if row else [],
                "revision": row["revision"] if row else 0,
            }
        )
    return answer


def _newest(rows: Iterable[Any]) -> dict[int, Any]:
    best: dict[int, Any] = {}
    for row in rows:
        if row["frame"] not in best or row["revision"] > best[row["frame"]]["revision"]:
            best[row["frame"]] = row
    return best


def _files(tx: Tx, job_id: str, first: int, last: int) -> list[Any]:
    query = farmwide(sa.select(files)).where(
        files.c.job_id == job_id, files.c.frame >= first, files.c.frame <= last
    )
    return list(tx.conn.execute(query.order_by(files.c.frame, files.c.kind.desc(), files.c.path)).mappings())


def file_page(
    tx: Tx, actor: Actor, job_id: str, after: int, limit: int, sign: SignUrl
) -> list[tuple[int, dict[str, Any]]]:
    """Committed files in commit order, newest revision of each frame only: (cursor value, file)."""
    find(tx, actor, job_id)
    newer = frames.alias("newer")
    outdated = (
        farmwide(sa.select(newer.c.frame))
        .where(newer.c.job_id == files.c.job_id, newer.c.frame == files.c.frame)
        .where(newer.c.revision > files.c.revision)
        .exists()
    )
    query = farmwide(sa.select(files)).where(files.c.job_id == job_id, files.c.id > after, ~outdated)
    rows = tx.conn.execute(query.order_by(files.c.id).limit(limit)).mappings()
    return [(row["id"], file_shape(row, sign)) for row in rows]


def file_shape(row: Any, sign: SignUrl) -> dict[str, Any]:
    return {
        "path": row["path"],
        "frame": row["frame"],
        "kind": row["kind"],
        "size": row["size"],
        "md5": row["md5"],
        "sha256": row["sha256"],
        "url": sign(row) if row["replaced_by"] is None else None,
        "replaced_by": row["replaced_by"],
    }


def attempt_page(tx: Tx, actor: Actor, job_id: str, after: str, limit: int) -> list[dict[str, Any]]:
    """Attempts in hand-out order with ids above `after`."""
    job = find(tx, actor, job_id)
    plan = plan_of(job)
    width = plan.number_width if plan else 3
    query = scoped(sa.select(attempts), attempts, actor.account_id).where(
        attempts.c.job_id == job_id, attempts.c.id > after
    )
    return [
        attempt_shape(tx, row, width)
        for row in tx.conn.execute(query.order_by(attempts.c.id).limit(limit)).mappings()
    ]


def attempt_shape(tx: Tx, row: Any, width: int) -> dict[str, Any]:
    billed, cost = row["billed_ms"], row["cost_micros"]
    if row["outcome"] is None:
        billed, cost = _running(tx, row)
    return {
        "id": row["id"],
        "task": f"{row['task_number']:0{width}d}",
        "session": row["session_id"],
        "node": row["node"],
        "instance_type": row["instance_type_id"],
        "preemptible": row["preemptible"],
        "zone": row["zone"] or None,
        "started_at": iso(row["started_ms"]),
        "ended_at": iso(row["ended_ms"]),
        "outcome": row["outcome"],
        "cause": row["cause"],
        "message": row["message"],
        "frames_done": row["frames_done"],
        "billed_seconds": billed / 1000,
        "price_per_hour": money(row["price_micros"]),
        "cost": money(cost),
        "peak_memory_bytes": row["peak_memory_bytes"],
    }


def log_keys(tx: Tx, actor: Actor, job_id: str, number: int) -> list[str]:
    """Storage keys of the logs of a task's attempts, oldest first."""
    one_task(tx, actor, job_id, number)
    query = scoped(sa.select(attempts.c.id), attempts, actor.account_id).where(
        attempts.c.job_id == job_id, attempts.c.task_number == number
    )
    ids = tx.conn.execute(query.order_by(attempts.c.id)).scalars()
    return [f"logs/{actor.account_id}/{i}.log" for i in ids]
