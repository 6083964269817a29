"""Reaction of a job to warnings of Blender as it opens and renders the scene: `on_blocked_scripts`,
`on_missing_files`, and a hold for simulations that must be baked and were not seen in the file.

Lifting the hold accepts the warnings: they do not hold the job again. Missing files may hold it once for
those that Blender names when it opens the scene, and once more for those that it looks for while it renders,
of which nobody could know before.
"""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.failure_codes import explain
from framefarm.core.frames import FrameSet
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs import failures
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import jobs
from framefarm.server.jobs.warnings import JobWarning
from framefarm.server.json_types import Json
from framefarm.server.rows import SessionRow
from framefarm.server.sessions.instructions import cancel_pending, instruct_job
from framefarm.server.tenancy import farmwide

CHOICES = {
    "blocked_scripts": ("on_blocked_scripts", "hold"),
    "missing_file": ("on_missing_files", "warn"),
    "simulation_must_be_baked": ("", "hold"),
}
"""Code of a warning → the job's field, if there is one, and its default."""
STOPPED = "The job failed while this machine did not answer."


def hold_or_fail(tx: Tx, session: SessionRow, state: JobState, new: list[msg.NodeWarning]) -> None:
    """Hold or fail the job, whose lock is held, for warnings that it did not have before."""
    subjects_by_code = {code: [w.subject for w in new if w.code == code] for code in CHOICES}
    if not any(subjects_by_code.values()):
        return
    row = farmwide(sa.select(jobs.c.request, jobs.c.warnings, jobs.c.frames, jobs.c.scene))
    request, stored, frames, scene = tx.conn.execute(row.where(jobs.c.id == state.job_id)).one()
    if _begins_and_ends_at_start(frames, scene):
        subjects_by_code["simulation_must_be_baked"] = []
    for code, subjects in subjects_by_code.items():
        field, default = CHOICES[code]
        choice = request.get(field, default) if subjects else "warn"
        if choice == "fail":
            cause, message = _failure(code, subjects)
            _fail(tx, session, state, cause, message)
            return
        if choice == "hold" and _is_first(code, new, stored):
            job_states.add_hold(state, "rule")
            _instruct(tx, session, state)


def _begins_and_ends_at_start(frames: str | None, scene: Json | None) -> bool:
    """Whether the job has no frame after the scene's first one: nothing is played before it."""
    if not frames or not scene or "frame_start" not in scene:
        return False
    chosen = FrameSet.from_text(frames)
    return bool(chosen.nth(len(chosen) - 1) <= scene["frame_start"])


def _is_first(code: str, new: list[msg.NodeWarning], stored: list[JobWarning]) -> bool:
    """Whether the job had no such warning before these."""
    means = [w.found_by for w in new if w.code == code]
    if "rendered" not in means:
        return sum(w["code"] == code for w in stored) == len(means)
    known = [w for w in stored if w["code"] == code and w.get("missing", {}).get("found_by") == "rendered"]
    return len(known) == means.count("rendered")


def _failure(code: str, subjects: list[str]) -> tuple[str, str]:
    if code == "missing_file":
        error = failures.missing_files(sorted(subjects))
        return error.cause, error.message
    return "scripts_blocked", explain("scripts_blocked")


def _fail(tx: Tx, session: SessionRow, state: JobState, cause: str, message: str) -> None:
    state.failed_cause, state.failed_message = cause, message
    stop_failed(tx, session, state)


def stop_failed(tx: Tx, session: SessionRow, state: JobState) -> None:
    """Stop a job that has failed: pending tasks are cancelled now, running ones once their session reports.

    Its lock is held, and its attempts' changes are written. `session` is the row of the one that reported.
    """
    cancel_pending(tx, state, STOPPED)
    _instruct(tx, session, state, cancel=True)


def _instruct(tx: Tx, session: SessionRow, state: JobState, *, cancel: bool = False) -> None:
    """Instruct the job's sessions; `session` is the row of the one that reported."""
    instruct_job(tx, state.job_id, **({"cancel": True} if cancel else {}))
    session.version += 1
    session.cancel = session.cancel or cancel
