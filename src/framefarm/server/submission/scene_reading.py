"""Reading of scenes: once a job has all inputs, its frames become known, or it fails with a cause."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.core import frame_grammar as grammar
from framefarm.core import packages as blenders
from framefarm.core.blender_features import Feature
from framefarm.core.failure_codes import explain
from framefarm.core.frame_grammar import Pick
from framefarm.core.frame_runs import FrameSpecError, Run
from framefarm.core.frames import FrameSet
from framefarm.core.path_matching import Uploads
from framefarm.core.paths import normalise
from framefarm.core.scene_fitness import Offer
from framefarm.core.task_plan import TaskPlan
from framefarm.sandboxing.errors import Stopped
from framefarm.server.accounts.tables import accounts
from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.tables import packages
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import manifests, scene_reader
from framefarm.server.files.scene_reader import Scene, SceneFacts
from framefarm.server.jobs import failures, records
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.failures import Unrenderable
from framefarm.server.jobs.records import SceneRecord
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.jobs.warnings import JobWarning
from framefarm.server.json_types import Json
from framefarm.server.rows import JobRow
from framefarm.server.storage.local import LocalStore
from framefarm.server.submission import fitness, linked_needs, missing_files, simulations

FARM_WIDE = "The leader has the scenes of all accounts read."
log = structlog.get_logger(__name__)
POLL_SECONDS = 10.0
MOST_AT_ONCE = 4
READ_SECONDS = 60.0
"""Time for all files of one job."""
MOST_NAMED = 50
OLD_LAYERS = "2.79"
"""Up to this release a scene had render layers; Blender makes view layers of them as it opens it."""
REST_SECONDS = 60.0
"""Pause of a job whose scene could not be read through the farm's own fault."""


@dataclass(frozen=True, slots=True)
class UnreadJob(JobRow):
    """A job whose scene is to be read."""

    release: str
    """Of its Blender package, as 4.2.23."""
    lacks: list[str] | None
    """Of its Blender package."""
    allow_scripts: bool
    """Its account's jobs may run scripts."""


def unread_jobs(tx: Tx, resting: Collection[str] = (), busy: Collection[str] = ()) -> list[UnreadJob]:
    """The oldest job of each account that has all inputs and an unread scene; at most 20.

    Without the jobs `resting`, and without the accounts `busy`.
    """
    waiting = (
        sa.select(sa.func.min(jobs.c.id))
        .join(job_state, job_state.c.job_id == jobs.c.id)
        .where(
            job_state.c.scene_read.is_(False),
            job_state.c.missing == 0,
            job_state.c.failed_cause.is_(None),
            job_state.c.cancel_ms.is_(None),
            jobs.c.deleted_ms.is_(None),
        )
    )
    if resting:
        waiting = waiting.where(jobs.c.id.not_in(resting))
    if busy:
        waiting = waiting.where(jobs.c.account_id.not_in(busy))
    query = (
        sa.select(jobs, packages.c.release, packages.c.lacks, accounts.c.allow_scripts)
        .join(packages, packages.c.id == jobs.c.package_id)
        .join(accounts, accounts.c.id == jobs.c.account_id)
    ).where(jobs.c.id.in_(waiting.group_by(jobs.c.account_id)))
    return tx.rows(UnreadJob, query.order_by(jobs.c.id).limit(20))


def read_scene(context: AppContext, job: UnreadJob, offers: Sequence[Offer] = ()) -> SceneRecord:
    """Read the job's scene files in their sandbox; `offers` are the farm's Blenders.

    Raises Unrenderable, Stopped.
    """
    account, request = job.account_id, job.request
    entries = list(manifests.load(context.store, account, job.manifest_sha256))
    deadline = time.monotonic() + READ_SECONDS
    stored_at = {e.path: context.store.path(e.content_key(account)) for e in entries}
    known: dict[str, SceneFacts] = {}

    def read_facts(paths: Sequence[str]) -> list[SceneFacts]:
        unread = [(p, stored_at[p]) for p in paths if p not in known]
        if unread:
            facts = scene_reader.read_scenes(
                unread,
                max(0.0, deadline - time.monotonic()),
                sandbox=context.settings.sandbox,
                stopping=lambda: context.draining,
            )
            known.update({f.path: f for f in facts})
        return [known[p] for p in paths]

    warnings: list[JobWarning] = []
    chosen = _choose(job, read_facts, list(stored_at), warnings)
    if chosen.cause is not None:
        raise Unrenderable(chosen.cause, chosen.message or f"{chosen.path} cannot be read.")
    asked = Offer(job.package_id, job.release, frozenset(job.lacks or ()))
    fitness.check_age(chosen, asked, offers)
    uploads = Uploads(stored_at)
    found = missing_files.find_missing(chosen, uploads, read_facts)
    if colours := request["environment_variables"].get("OCIO"):
        config = normalise(colours).text
        [facts] = read_facts([config])
        found.missing |= missing_files.find_missing_luts(config, facts, uploads)
    choice = request.get("on_missing_files", "warn")
    if found.missing and choice == "fail":
        raise failures.missing_files(list(found.missing), [*warnings, *found.warnings()])
    warnings += found.warnings()
    scene = linked_needs.with_libraries(chosen, _scene(job, chosen), uploads, read_facts)
    frames, scouts = _frames(request, scene)
    fit = fitness.check(
        chosen,
        scene,
        asked,
        offers,
        request=request["blender_version"],
        engine_chosen=bool(request["render_software"]),
        brings_code=_brings_code(job),
    )
    warnings += fit.warnings
    if Feature.FLUID_SIMULATION in fit.lacks:  # a bake does not help this Blender
        scene = simulations.without(scene, "fluid")
    simulated = simulations.check(scene, frames, chosen.path, list(stored_at))
    scene = simulated.scene
    warnings += simulated.warnings
    return SceneRecord(
        scene_path=chosen.path,
        frames=frames,
        scouts=scouts,
        scene={
            "path": chosen.path,
            "sha256": next(e.sha256 for e in entries if e.path == chosen.path),
            "blender_version": chosen.blender_version,
            "scenes": [s.name for s in chosen.scenes],
            **msgspec.to_builtins(scene),
            "aliases": found.aliases,
        },
        warnings=warnings,
        hold=(bool(found.missing) and choice == "hold") or simulated.hold or fit.hold,
        package_id=fit.package_id,
    )


def _choose(
    job: JobRow, read_facts: missing_files.ReadFacts, paths: Sequence[str], warnings: list[JobWarning]
) -> SceneFacts:
    """The scene: the one named, else the only .blend that no other links."""
    if job.scene_path is not None:
        return read_facts([job.scene_path])[0]
    blends = read_facts([p for p in paths if p.lower().endswith(".blend")])
    linked = {library.path for facts in blends for library in facts.libraries}
    not_linked = [facts for facts in blends if facts.path not in linked]
    chosen = (not_linked or blends)[0]
    if len(blends) > 1 and len(not_linked) != 1:
        warnings.append(_warning("scene_guessed", chosen.path, path=chosen.path))
    return chosen


def _scene(job: UnreadJob, chosen: SceneFacts) -> Scene:
    """The scene of the file that the job asks for.

    Raises Unrenderable, also for a camera or view layer that it can't have. Those that a library, an add-on
    or a script may bring are left to Blender.
    """
    request = job.request
    scene = chosen.scene(request.get("scene"))
    if scene is None:
        names = ", ".join(s.name for s in chosen.scenes)
        raise Unrenderable("unknown_scene", name=repr(request.get("scene")), has=names)
    no_code = not _brings_code(job)
    camera = request.get("camera")
    if camera is not None and no_code and not chosen.libraries and camera not in chosen.cameras:
        has = ", ".join(scene.cameras[:MOST_NAMED]) or "none"
        raise Unrenderable("unknown_camera", name=repr(camera), has=has)
    if camera is None and no_code and scene.lacks_camera:
        raise Unrenderable("no_camera", scene=repr(scene.name), where="")
    for name in request.get("view_layers") or ():
        if (
            no_code
            and name not in scene.view_layers
            and not blenders.can_open(chosen.blender_version, OLD_LAYERS)
        ):
            has = ", ".join(scene.view_layers[:MOST_NAMED]) or "none"
            raise Unrenderable("unknown_view_layer", name=repr(name), has=has)
    return scene


def _brings_code(job: UnreadJob) -> bool:
    """Whether scripts of the scene or add-ons may change it in Blender."""
    return job.allow_scripts or bool(job.request.get("addons"))


def _frames(request: Json, scene: Scene) -> tuple[FrameSet, FrameSet]:
    """The job's frames and scouts. Raises Unrenderable."""
    own = FrameSet([Run(scene.frame_start, scene.frame_end, max(1, scene.frame_step))])
    try:
        parsed = grammar.parse(request["frame_range"])
        if isinstance(parsed, Pick):
            is_current = parsed.kind == grammar.CURRENT
            frame = scene.frame_current
            frames = FrameSet([Run(frame, frame, 1)]) if is_current else parsed.of(own)
        else:
            frames = parsed
        return frames, grammar.resolve_scouts(request["scout_frames"], frames)
    except FrameSpecError as error:
        raise Unrenderable("bad_frames", what=str(error).rstrip(".")) from None


def _warning(code: str, subject: str, **facts: str) -> JobWarning:
    return JobWarning(code=code, message=explain(code, facts), subject=subject)


def record_scene(tx: Tx, job: JobRow, record: SceneRecord) -> None:
    """Record a job's scene, and with it its frames and tasks."""
    state = job_states.lock(tx, job.id)
    if state.scene_read or state.missing:
        return
    plan = TaskPlan(record.frames, record.scouts, job.chunk_size)
    records.record_scene(tx, job.id, record)
    state.scene_read = True
    state.task_count = plan.task_count
    state.scout_count = plan.scout_count
    state.frame_count = len(record.frames)
    if record.hold:
        job_states.add_hold(state, "rule")
    state.emit(tx, "system", "job.scene_read", {"frames": state.frame_count, "tasks": plan.task_count})
    job_states.save(tx, state)
    tx.wake("dispatch")


def fail_job(tx: Tx, job: JobRow, error: Unrenderable) -> None:
    """Fail a job whose scene cannot be rendered as asked."""
    state = job_states.lock(tx, job.id)
    if state.scene_read:
        return
    records.add_warnings(tx, job.id, error.warnings)
    state.failed_cause, state.failed_message = error.cause, error.message
    job_states.save(tx, state)


def accept_arrived_files(tx: Tx, store: LocalStore, job_ids: list[str]) -> None:
    """Count the missing files of jobs for which some arrived. A job with none left gets a whole manifest."""
    for job_id in sorted(set(job_ids)):
        state = job_states.lock(tx, job_id)
        missing = manifests.missing_count(tx, job_id)
        if missing == 0 and state.missing:
            job = tx.row(JobRow, sa.select(jobs).where(jobs.c.id == job_id))
            manifest = manifests.complete(tx, store, job)
            if manifest is None:
                missing = manifests.missing_count(tx, job_id)
            else:
                records.set_manifest(tx, job_id, manifest)
        if missing < state.missing:
            state.arrived_ms = tx.now_ms
        state.missing = missing
        job_states.save(tx, state)
    if job_ids:
        tx.wake("scenes")


def scenes_at_once() -> int:
    """Most scenes that are read at once, so that a slow one holds up no other account's."""
    return min(len(os.sched_getaffinity(0)), MOST_AT_ONCE)


async def run_loop(context: AppContext) -> None:
    """Read scenes for ever: woken by submissions and uploads, else every POLL_SECONDS.

    One scene of each account at a time, the oldest job's first.
    """
    resting: dict[str, float] = {}
    reading: dict[asyncio.Task[bool], UnreadJob] = {}
    try:
        async with context.hub.listen("scenes") as woken:
            while True:
                resting = {job: until for job, until in resting.items() if until > time.monotonic()}
                try:
                    await _start_reading(context, reading, list(resting))
                except Exception:
                    log.exception("scene_reading_failed")
                waking = asyncio.create_task(woken.wait(POLL_SECONDS))
                try:
                    done, _ = await asyncio.wait({waking, *reading}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waking.cancel()
                for task in done - {waking}:
                    job = reading.pop(task)
                    if not task.result():
                        resting[job.id] = time.monotonic() + REST_SECONDS
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def _start_reading(
    context: AppContext, reading: dict[asyncio.Task[bool], UnreadJob], resting: list[str]
) -> None:
    """Start to read as many scenes as there is room for."""
    room = scenes_at_once() - len(reading)
    if room <= 0:
        return
    busy = {job.account_id for job in reading.values()}
    excluded = [*resting, *(job.id for job in reading.values())]
    unread = await context.db.read(unread_jobs, excluded, busy)
    for job in unread[:room]:
        reading[asyncio.create_task(_read_one(context, job))] = job


async def _read_one(context: AppContext, job: UnreadJob) -> bool:
    """Read one job's scene, and record it or fail the job. False if the farm itself was at fault."""
    try:
        try:
            installed = await context.db.read(catalog.list_packages)
            offers = fitness.offers_of(installed, bubblewrap=context.settings.sandbox == "bubblewrap")
            record = await run_in_threadpool(read_scene, context, job, offers)
        except Unrenderable as error:
            await context.db.write(fail_job, job, error)
        else:
            await context.db.write(record_scene, job, record)
    except Stopped:  # the farm stops; its next start reads it
        return False
    except Exception:
        log.exception("scene_not_read", job=job.id)
        return False
    return True
