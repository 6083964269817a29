"""Submitting a job: every rule of the payload, then one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from framefarm.core import frames as grammar
from framefarm.core.errors import FieldError, InvalidInput
from framefarm.core.frames import FrameSet, FrameSpecError, Pick, TaskPlan
from framefarm.core.job import FINISHED, JobStatus
from framefarm.core.paths import check_all, normalise
from framefarm.protocol.api_jobs import JobSubmission
from framefarm.server import places
from framefarm.server.accounts import service as accounts
from framefarm.server.actor import Actor
from framefarm.server.catalog import service as catalog
from framefarm.server.database import Tx
from framefarm.server.farm import Farm
from framefarm.server.files import manifests
from framefarm.server.files.tables import missing_paths
from framefarm.server.ids import new_id
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import job_dependencies, job_state, jobs
from framefarm.server.mail import service as mail
from framefarm.server.projects import service as projects
from framefarm.server.tenancy import farmwide, scoped


@dataclass
class Prepared:
    """A submission that passed every rule, ready to be stored."""

    said: JobSubmission
    project: Any
    instance: Any
    package: Any
    place: places.Place
    paths: list[str]
    pins: dict[str, tuple[str | None, str | None]]
    scene_path: str | None
    frames: FrameSet | None
    scouts: FrameSet
    depends_on: list[Any]
    snapshot: manifests.Snapshot
    warnings: list[dict[str, str]] = field(default_factory=list)
    manifest_sha256: str = ""


def prepare(tx: Tx, farm: Farm, actor: Actor, said: JobSubmission) -> Prepared:
    """Check everything; raises InvalidInput with every bad field, or Conflict for an archived project."""
    actor.must_write()
    errors: list[FieldError] = []
    check = _Collect(errors)
    project = check(lambda: projects.project_for_job(tx, actor.account_id, said.project))
    instance = check(lambda: catalog.instance_for(tx, actor.account_id, said.instance_type, actor.is_admin))
    package = check(lambda: catalog.package_for(tx, said.blender_version))
    place = check(lambda: places.resolve(tx, farm, actor.account_id, said.output_path))
    if place is not None:
        check(lambda: places.check_writable(farm, place))
    if instance is not None and said.preemptible and instance["preemptible_price_micros"] is None:
        errors.append(FieldError("preemptible", f"{instance['id']} has no preemptible price", True))
    frames, scouts = _frames(said, errors)
    paths, scene_path = _paths(said, errors)
    pins = _pins(said, paths, errors)
    depends = _dependencies(tx, actor, said, errors)
    ocio = said.environment_variables.get("OCIO")
    if ocio is not None and ocio not in paths:
        errors.append(FieldError("environment_variables.OCIO", "must name one of upload_paths", ocio))
    if said.notify is not None:
        check(lambda: mail.check(tx, farm.settings, actor.account_id, said.notify.email))
    if errors:
        raise InvalidInput(errors)
    snapshot = manifests.snapshot(tx, actor.account_id, actor.user_id, paths, pins)
    prepared = Prepared(
        said, project, instance, package, place, paths, pins, scene_path, frames, scouts, depends, snapshot
    )
    _warn(tx, actor, prepared)
    return prepared


class _Collect:
    """Runs a check; its InvalidInput joins the others, anything else ends the submission."""

    def __init__(self, errors: list[FieldError]) -> None:
        self._errors = errors

    def __call__(self, work: Any) -> Any:
        try:
            return work()
        except InvalidInput as bad:
            self._errors.extend(bad.errors)
            return None


def _frames(said: JobSubmission, errors: list[FieldError]) -> tuple[FrameSet | None, FrameSet]:
    empty = FrameSet.from_text("")
    frames: FrameSet | None = None
    try:
        parsed = grammar.parse(said.frame_range)
        frames = None if isinstance(parsed, Pick) else parsed
    except FrameSpecError as error:
        errors.append(FieldError("frame_range", str(error), said.frame_range[:200]))
        return None, empty
    try:
        if frames is None:
            if said.scout_frames:
                grammar.parse(said.scout_frames)
            return None, empty
        return frames, grammar.resolve_scouts(said.scout_frames, frames)
    except FrameSpecError as error:
        errors.append(FieldError("scout_frames", str(error), said.scout_frames[:200]))
        return frames, empty


def _paths(said: JobSubmission, errors: list[FieldError]) -> tuple[list[str], str | None]:
    bad = check_all(said.upload_paths)
    errors.extend(bad)
    if bad:
        return [], None
    normal = [normalise(p) for p in said.upload_paths]
    foreign = [p.text for p in normal if p.kind != "posix"]
    if foreign:
        sentence = "Windows paths are stored, but not yet on this farm's machines: use POSIX paths"
        errors.append(FieldError("upload_paths", sentence, foreign[0]))
    paths = [p.text for p in normal]
    if said.scene_path is not None:
        try:
            scene = normalise(said.scene_path).text
        except ValueError as error:
            errors.append(FieldError("scene_path", str(error), said.scene_path))
            return paths, None
        if scene not in paths:
            errors.append(FieldError("scene_path", "must be one of upload_paths", said.scene_path))
        return paths, scene
    blends = [p for p in paths if p.lower().endswith(".blend")]
    if not blends:
        sentence = "none of them is a .blend: upload the scene, or name it in scene_path"
        errors.append(FieldError("upload_paths", sentence, said.upload_paths[0]))
    return paths, blends[0] if len(blends) == 1 else None


def _pins(
    said: JobSubmission, paths: list[str], errors: list[FieldError]
) -> dict[str, tuple[str | None, str | None]]:
    pins: dict[str, list[str | None]] = {}
    known = set(paths)
    for name, given, length, position in (
        ("upload_md5s", said.upload_md5s, 32, 0),
        ("upload_sha256s", said.upload_sha256s, 64, 1),
    ):
        for path, digest in given.items():
            try:
                text = normalise(path).text
            except ValueError as error:
                errors.append(FieldError(f"{name}.{path[:200]}", str(error), path[:200]))
                continue
            if known and text not in known:
                errors.append(FieldError(f"{name}.{path[:200]}", "is not one of upload_paths", path[:200]))
            value = digest.lower()
            if length == 32 and len(digest) == 24:
                value = manifests.md5_hex(digest) or ""
            if len(value) != length or set(value) - set("0123456789abcdef"):
                errors.append(
                    FieldError(f"{name}.{path[:200]}", f"must be {length} hex digits", digest[:100])
                )
            pins.setdefault(text, [None, None])[position] = value
    return {path: (md5, sha) for path, (md5, sha) in pins.items()}


def _dependencies(tx: Tx, actor: Actor, said: JobSubmission, errors: list[FieldError]) -> list[Any]:
    """The jobs waited for. New jobs are waited for by none, so a cycle cannot be submitted."""
    wanted = list(dict.fromkeys(said.depends_on))
    if not wanted:
        return []
    query = sa.select(job_state.c.job_id, job_state.c.status).join(jobs, jobs.c.id == job_state.c.job_id)
    mine = scoped(query, job_state, actor.account_id).where(
        job_state.c.job_id.in_(wanted), jobs.c.deleted_ms.is_(None)
    )
    rows = list(tx.conn.execute(mine).mappings())
    unknown = sorted(set(wanted) - {r["job_id"] for r in rows})
    errors.extend(FieldError("depends_on", "there is no such job", u) for u in unknown)
    return rows


def _warn(tx: Tx, actor: Actor, prepared: Prepared) -> None:
    for path in manifests.previous_use(tx, actor.user_id, prepared.paths):
        if path not in prepared.pins:
            text = "An earlier job used this file, and nothing was uploaded for it since."
            prepared.warnings.append({"code": "input_not_reconfirmed", "message": text, "subject": path})
    shared = (
        scoped(sa.select(jobs.c.id), jobs, actor.account_id)
        .join(job_state, job_state.c.job_id == jobs.c.id)
        .where(jobs.c.output_url == prepared.place.url, jobs.c.deleted_ms.is_(None))
    )
    other = tx.conn.execute(shared.order_by(jobs.c.id.desc()).limit(1)).scalar()
    if other is not None:
        text = f"Job {other} has the same output_path: the job that writes a file last keeps the place."
        prepared.warnings.append({"code": "output_shared", "message": text, "subject": other})


def store(tx: Tx, farm: Farm, actor: Actor, prepared: Prepared) -> str:
    """Write the job down; returns its id. Checks again what may have changed since `prepare`."""
    said = prepared.said
    fresh = manifests.snapshot(tx, actor.account_id, actor.user_id, prepared.paths, prepared.pins)
    if fresh != prepared.snapshot:
        raise SnapshotMoved
    project = projects.project_for_job(tx, actor.account_id, said.project)
    job_id = new_id("job")
    manifests.record(tx, actor.account_id, prepared.manifest_sha256, prepared.snapshot.entries)
    manifests.mark_used(tx, actor.user_id, prepared.paths)
    request = said.model_dump(exclude={"upload_paths", "upload_md5s", "upload_sha256s"})
    missing = prepared.snapshot.missing
    if missing:
        request["late_pins"] = {p: prepared.pins[p] for p in missing if p in prepared.pins}
    plan = None
    if prepared.frames is not None:
        plan = TaskPlan(prepared.frames, prepared.scouts, said.chunk_size)
    tx.conn.execute(
        sa.insert(jobs).values(
            id=job_id,
            account_id=actor.account_id,
            user_id=actor.user_id,
            project_id=project["id"],
            title=said.job_title,
            created_ms=tx.now_ms,
            request=request,
            instance_type_id=prepared.instance["id"],
            preemptible=said.preemptible,
            package_id=prepared.package["id"],
            manifest_sha256=prepared.manifest_sha256,
            scene_path=prepared.scene_path,
            output_url=prepared.place.url,
            chunk_size=said.chunk_size,
            frames=None if prepared.frames is None else prepared.frames.to_text(),
            scouts=prepared.scouts.to_text(),
            warnings=prepared.warnings,
        )
    )
    waiting, holds = _wait_for(tx, actor, job_id, prepared, said)
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
    if missing:
        rows = [
            {
                "job_id": job_id,
                "path": path,
                "account_id": actor.account_id,
                "user_id": actor.user_id,
                "md5": prepared.pins.get(path, (None, None))[0],
                "sha256": prepared.pins.get(path, (None, None))[1],
            }
            for path in missing
        ]
        tx.conn.execute(sa.insert(missing_paths), rows)
    state = job_states.lock(tx, job_id)
    state.emit(tx, actor.name, "job.created", {"title": said.job_title})
    job_states.save(tx, state, actor.name)
    accounts.audit(
        tx,
        actor.name,
        actor.account_id,
        "job.submit",
        job_id,
        None,
        {"title": said.job_title},
        actor.request_id,
    )
    tx.after_commit(lambda: farm.hub.wake("scenes", "dispatch"))
    return job_id


COUNTERS = (
    "rows_pending", "rows_running", "rows_success", "rows_failed", "rows_preempted", "rows_cancelled",
    "scouts_ended", "frames_done", "unpublished",
)  # fmt: skip


class SnapshotMoved(Exception):
    """An input was registered between the snapshot and the transaction: take it again."""


def _wait_for(
    tx: Tx, actor: Actor, job_id: str, prepared: Prepared, said: JobSubmission
) -> tuple[int, set[str]]:
    """Write down the unfinished jobs waited for; a failed one holds this one at once."""
    holds = {"user"} if said.hold else set()
    rows = []
    for row in prepared.depends_on:
        status = tx.conn.execute(
            farmwide(sa.select(job_state.c.status)).where(job_state.c.job_id == row["job_id"])
        ).scalar_one()
        if status == JobStatus.SUCCESS:
            continue
        rows.append({"job_id": job_id, "depends_on": row["job_id"], "account_id": actor.account_id})
        if JobStatus(status) in FINISHED:
            holds.add("dependency")
    if rows:
        tx.conn.execute(sa.insert(job_dependencies), rows)
    return len(rows), holds


def dry_run(prepared: Prepared) -> dict[str, Any]:
    """What `store` would do."""
    said = prepared.said
    plan = (
        TaskPlan(prepared.frames, prepared.scouts, said.chunk_size) if prepared.frames is not None else None
    )
    price = prepared.instance["preemptible_price_micros"] if said.preemptible else None
    return {
        "dry_run": True,
        "frames": len(prepared.frames) if prepared.frames is not None else None,
        "tasks": plan.task_count if plan else None,
        "scouts": plan.scout_count if plan else None,
        "missing_paths": list(prepared.snapshot.missing),
        "warnings": prepared.warnings,
        "price_per_hour": {
            "amount_micros": prepared.instance["price_micros"] if price is None else price,
            "currency": "USD",
        },
    }
