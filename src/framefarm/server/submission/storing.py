"""Storing a submission that passed every rule: one transaction."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.core.frames import TaskPlan
from framefarm.core.job import FINISHED, JobStatus
from framefarm.core.money import money
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.catalog.prices import price_of
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import manifests
from framefarm.server.ids import new_id
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import job_dependencies, job_state, jobs
from framefarm.server.projects import service as projects
from framefarm.server.submission.validation import Prepared
from framefarm.server.tenancy import farmwide


def store(tx: Tx, context: AppContext, actor: Actor, prepared: Prepared) -> str:
    """Write the job down; returns its id. Checks again what may have changed since `prepare`."""
    said = prepared.said
    manifests.claim_entries(tx, actor.account_id, prepared.snapshot.entries)
    fresh = manifests.snapshot(tx, actor.account_id, actor.user_id, prepared.paths, prepared.pins)
    if fresh.entries != prepared.snapshot.entries:
        raise SnapshotMoved
    project = projects.project_for_job(tx, actor.account_id, said.project)
    job_id = new_id("job")
    manifests.record(tx, actor.account_id, prepared.manifest_sha256, prepared.snapshot.entries)
    manifests.mark_used(tx, actor.user_id, prepared.paths)
    request = said.model_dump(exclude={"upload_paths", "upload_md5s", "upload_sha256s"})
    request["addons"] = prepared.addons
    missing = prepared.snapshot.missing
    plan = _plan(prepared)
    tx.conn.execute(
        sa.insert(jobs).values(
            id=job_id,
            account_id=actor.account_id,
            user_id=actor.user_id,
            project_id=project.id,
            title=said.job_title,
            created_ms=tx.now_ms,
            request=request,
            instance_type_id=prepared.instance.id,
            preemptible=said.preemptible,
            package_id=prepared.package.id,
            manifest_sha256=prepared.manifest_sha256,
            scene_path=prepared.scene_path,
            output_url=prepared.place.url,
            chunk_size=said.chunk_size,
            frames=None if prepared.frames is None else prepared.frames.to_text(),
            scouts=prepared.scouts.to_text(),
            warnings=prepared.warnings,
        )
    )
    waiting, holds = _wait_for(tx, actor, job_id, prepared)
    values = {
        "job_id": job_id,
        "account_id": actor.account_id,
        "status": str(JobStatus.SYNCING if missing else JobStatus.PENDING),
        "status_since_ms": tx.now_ms,
        "priority": said.priority,
        "next": 0,
        "task_count": plan.task_count if plan else None,
        "scout_count": plan.scout_count if plan else 0,
        "frame_count": len(prepared.frames) if prepared.frames is not None else None,
        "holds": ",".join(sorted(holds)),
        "gate_open": False,
        "missing": len(missing),
        "scene_read": False,
        "depends_left": waiting,
        "event_number": 0,
    } | dict.fromkeys(COUNTERS, 0)
    tx.conn.execute(sa.insert(job_state).values(values))
    manifests.await_missing(tx, actor.account_id, actor.user_id, job_id, prepared.snapshot.entries)
    state = job_states.lock(tx, job_id)
    state.emit(tx, actor.name, "job.created", {"title": said.job_title})
    job_states.save(tx, state, actor.name)
    audit(tx, actor, "job.submit", job_id, after={"title": said.job_title})
    tx.wake("scenes", "dispatch")
    return job_id


COUNTERS = (
    "rows_pending", "rows_running", "rows_success", "rows_failed", "rows_preempted", "rows_cancelled",
    "scouts_ended", "frames_done", "cost_micros", "unpublished",
)  # fmt: skip


class SnapshotMoved(Exception):
    """An input was registered between the snapshot and the transaction: take it again."""


def _plan(prepared: Prepared) -> TaskPlan | None:
    """None until the frames are known."""
    if prepared.frames is None:
        return None
    return TaskPlan(prepared.frames, prepared.scouts, prepared.said.chunk_size)


def _wait_for(tx: Tx, actor: Actor, job_id: str, prepared: Prepared) -> tuple[int, set[str]]:
    """Write down the unfinished jobs waited for; a failed one holds this one at once.

    None of them ends meanwhile: who ends looks for those that wait, and would not see this one. Locked in
    the order of their ids, as an end locks the jobs that wait for it, which are younger.
    """
    holds = {"user"} if prepared.said.hold else set()
    rows = []
    names = sorted(row["job_id"] for row in prepared.depends_on)
    for name in names:
        query = farmwide(sa.select(job_state.c.status)).where(job_state.c.job_id == name)
        status = tx.conn.execute(query.with_for_update(read=True)).scalar_one()
        if status == JobStatus.SUCCESS:
            continue
        rows.append({"job_id": job_id, "depends_on": name, "account_id": actor.account_id})
        if JobStatus(status) in FINISHED:
            holds.add("dependency")
    if rows:
        tx.conn.execute(sa.insert(job_dependencies), rows)
    return len(rows), holds


def dry_run(prepared: Prepared) -> dict[str, Any]:
    """What `store` would do."""
    said = prepared.said
    plan = _plan(prepared)
    price = price_of(prepared.instance, preemptible=said.preemptible)
    return {
        "dry_run": True,
        "frames": len(prepared.frames) if prepared.frames is not None else None,
        "tasks": plan.task_count if plan else None,
        "scouts": plan.scout_count if plan else None,
        "missing_paths": list(prepared.snapshot.missing),
        "warnings": prepared.warnings,
        "price_per_hour": money(price),
    }
