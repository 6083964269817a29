"""A job's row: its creation, and the few changes of it. Status and counts are in `server/jobs/state.py`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.frames import FrameSet
from framefarm.core.job import JobStatus
from framefarm.core.task_plan import TaskPlan
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.jobs.warnings import JobWarning
from framefarm.server.json_types import Json
from framefarm.server.tenancy import farmwide

COUNTERS = (
    "rows_pending", "rows_running", "rows_success", "rows_failed", "rows_preempted", "rows_cancelled",
    "scouts_ended", "frames_done", "cost_micros", "unpublished",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to create: columns of `jobs`, then what its first `job_state` follows from."""

    id: str
    account_id: str
    user_id: str
    project_id: str
    title: str
    request: Json
    instance_type_id: str
    preemptible: bool
    package_id: str
    manifest_sha256: str
    scene_path: str | None
    output_url: str
    chunk_size: int
    frames: FrameSet | None
    """None until its scene is read."""
    scouts: FrameSet
    warnings: list[JobWarning]
    priority: int
    missing: int
    """Number of its inputs that are not uploaded yet."""
    depends_left: int
    """Number of jobs that it waits for."""
    holds: Collection[str]

    @property
    def plan(self) -> TaskPlan | None:
        """Its tasks; None until its frames are known."""
        return None if self.frames is None else TaskPlan(self.frames, self.scouts, self.chunk_size)


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """All that reading its scene adds to a job."""

    scene_path: str
    frames: FrameSet
    scouts: FrameSet
    scene: Json
    """The scene's facts, as `jobs.scene` stores them."""
    warnings: list[JobWarning]
    hold: bool = False
    """Whether it holds the job: for missing files (`on_missing_files`), simulations that must be baked, or a
    Blender that does not fit."""
    package_id: str | None = None
    """Another package than the one asked for, since the scene needs it."""


def create(tx: Tx, job: NewJob) -> None:
    """Insert the job and its state."""
    tx.conn.execute(
        sa.insert(jobs).values(
            id=job.id,
            account_id=job.account_id,
            user_id=job.user_id,
            project_id=job.project_id,
            title=job.title,
            created_ms=tx.now_ms,
            request=job.request,
            instance_type_id=job.instance_type_id,
            preemptible=job.preemptible,
            package_id=job.package_id,
            manifest_sha256=job.manifest_sha256,
            scene_path=job.scene_path,
            output_url=job.output_url,
            chunk_size=job.chunk_size,
            frames=None if job.frames is None else job.frames.to_text(),
            scouts=job.scouts.to_text(),
            warnings=job.warnings,
        )
    )
    plan = job.plan
    values = {
        "job_id": job.id,
        "account_id": job.account_id,
        "status": JobStatus.SYNCING if job.missing else JobStatus.PENDING,
        "status_since_ms": tx.now_ms,
        "priority": job.priority,
        "next": 0,
        "task_count": plan.task_count if plan else None,
        "scout_count": plan.scout_count if plan else 0,
        "frame_count": None if job.frames is None else len(job.frames),
        "holds": ",".join(sorted(job.holds)),
        "gate_open": False,
        "missing": job.missing,
        "scene_read": False,
        "depends_left": job.depends_left,
        "event_number": 0,
    } | dict.fromkeys(COUNTERS, 0)
    tx.conn.execute(sa.insert(job_state).values(values))


def record_scene(tx: Tx, job_id: str, record: SceneRecord) -> None:
    """Store what was read of a job's scene; its warnings are added to the job's."""
    if record.package_id is not None:
        _change(tx, job_id, package_id=record.package_id)
    _change(
        tx,
        job_id,
        scene_path=record.scene_path,
        frames=record.frames.to_text(),
        scouts=record.scouts.to_text(),
        scene=record.scene,
    )
    add_warnings(tx, job_id, record.warnings)


def add_warnings(tx: Tx, job_id: str, found: list[JobWarning]) -> None:
    """Add warnings from reading the job's scene to those of its submission."""
    query = farmwide(sa.select(jobs.c.warnings)).where(jobs.c.id == job_id)
    _change(tx, job_id, warnings=tx.conn.execute(query).scalar_one() + found)


def set_manifest(tx: Tx, job_id: str, manifest_sha256: str) -> None:
    """Give the job another manifest: one that has its missing files, too."""
    _change(tx, job_id, manifest_sha256=manifest_sha256)


def mark_deleted(tx: Tx, job_id: str) -> None:
    """Mark the job as deleted now; retention removes its rows and files later."""
    _change(tx, job_id, deleted_ms=tx.now_ms)


def _change(tx: Tx, job_id: str, **values: object) -> None:
    tx.conn.execute(farmwide(sa.update(jobs)).where(jobs.c.id == job_id).values(values))
