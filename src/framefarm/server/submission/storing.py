"""Creation of a job from a submission that passed every rule, in one transaction."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.job import FINISHED, JobStatus
from framefarm.core.money import money
from framefarm.core.task_plan import TaskPlan
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import manifests
from framefarm.server.ids import new_id
from framefarm.server.jobs import dependencies, records
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import job_state
from framefarm.server.json_types import Answer
from framefarm.server.projects import service as projects
from framefarm.server.sessions.attempt_price import price_of
from framefarm.server.submission.validation import Prepared
from framefarm.server.tenancy import farmwide


def store(tx: Tx, context: AppContext, actor: Actor, prepared: Prepared) -> str:
    """Create the job; returns its id. Checks again what may have changed since `prepare`.

    Raises SnapshotMoved; InvalidInput or Conflict for its project.
    """
    body = prepared.body
    manifests.claim_entries(tx, actor.account_id, prepared.snapshot.entries)
    snapshot = manifests.snapshot(tx, actor.account_id, actor.user_id, prepared.paths, prepared.pins)
    if snapshot.entries != prepared.snapshot.entries:
        raise SnapshotMoved
    project = projects.project_for_job(tx, actor.account_id, body.project)
    manifests.record(tx, actor.account_id, prepared.manifest_sha256, snapshot.entries)
    manifests.mark_used(tx, actor.user_id, prepared.paths)
    request = body.model_dump(exclude={"upload_paths", "upload_md5s", "upload_sha256s"})
    request["addons"] = prepared.addons
    waits_for, holds = _wait_for(tx, prepared)
    job = records.NewJob(
        id=new_id("job"),
        account_id=actor.account_id,
        user_id=actor.user_id,
        project_id=project.id,
        title=body.job_title,
        request=request,
        instance_type_id=prepared.instance.id,
        preemptible=body.preemptible,
        package_id=prepared.package.id,
        manifest_sha256=prepared.manifest_sha256,
        scene_path=prepared.scene_path,
        output_url=prepared.destination.url,
        chunk_size=body.chunk_size,
        frames=prepared.frames,
        scouts=prepared.scouts,
        warnings=prepared.warnings,
        priority=body.priority,
        missing=len(snapshot.missing),
        depends_left=len(waits_for),
        holds=holds,
    )
    records.create(tx, job)
    dependencies.record(tx, actor.account_id, job.id, waits_for)
    manifests.await_missing(tx, actor.account_id, actor.user_id, job.id, snapshot.entries)
    state = job_states.lock(tx, job.id)
    state.emit(tx, actor.name, "job.created", {"title": body.job_title})
    job_states.save(tx, state, actor.name)
    audit(tx, actor, "job.submit", job.id, after={"title": body.job_title})
    tx.wake("scenes", "dispatch")
    return job.id


class SnapshotMoved(Exception):
    """An input changed between the snapshot and the transaction: the caller takes a new snapshot."""


def _wait_for(tx: Tx, prepared: Prepared) -> tuple[list[str], set[str]]:
    """(jobs to wait for, holds) of the new job. A job that failed already holds it at once.

    Locks the state of those jobs, so that none ends before this transaction does: the end of a job reads
    which jobs wait for it. In the order of their ids, as an end locks the jobs that wait for it, which are
    younger.
    """
    holds = {"user"} if prepared.body.hold else set()
    waits_for = []
    for job_id in sorted(prepared.depends_on):
        query = farmwide(sa.select(job_state.c.status)).where(job_state.c.job_id == job_id)
        status = tx.conn.execute(query.with_for_update(read=True)).scalar_one()
        if status is JobStatus.SUCCESS:
            continue
        waits_for.append(job_id)
        if status in FINISHED:
            holds.add("dependency")
    return waits_for, holds


def dry_run(prepared: Prepared) -> Answer:
    """The answer to `dry_run=true`: what `store` would create."""
    frames, body = prepared.frames, prepared.body
    plan = None if frames is None else TaskPlan(frames, prepared.scouts, body.chunk_size)
    price_micros = price_of(prepared.instance, preemptible=body.preemptible)
    return {
        "dry_run": True,
        "frames": None if frames is None else len(frames),
        "tasks": plan.task_count if plan else None,
        "scouts": plan.scout_count if plan else None,
        "missing_paths": list(prepared.snapshot.missing),
        "warnings": prepared.warnings,
        "price_per_hour": money(price_micros),
    }
