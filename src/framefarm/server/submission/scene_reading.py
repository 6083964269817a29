"""When a job's inputs are all there: read its scene, settle its frames, or fail it with a cause."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.core import frames as grammar
from framefarm.core import packages as blenders
from framefarm.core.failure_codes import explain
from framefarm.core.frames import FrameSet, FrameSpecError, Pick, Run, TaskPlan
from framefarm.core.path_matching import Uploads
from framefarm.core.paths import normalise
from framefarm.sandboxing.errors import Stopped
from framefarm.server.accounts.tables import accounts
from framefarm.server.catalog.tables import packages
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import manifests, scene_reader
from framefarm.server.files.scene_reader import Scene, SceneFacts
from framefarm.server.jobs import failures
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.failures import Unrenderable
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.storage.local import LocalStore
from framefarm.server.submission import missing_files
from framefarm.server.tenancy import farmwide

log = structlog.get_logger(__name__)
LOOK_SECONDS = 10.0
MOST_AT_ONCE = 4
READ_SECONDS = 60.0
MOST_NAMED = 50
OLD_LAYERS = "2.79"
"""Until then a scene had render layers; Blender makes view layers of them when it opens it."""
REST_SECONDS = 60.0
"""How long a job waits whose scene the farm could not even try to read."""


def unread(tx: Tx, resting: Collection[str] = (), busy: Collection[str] = ()) -> list[Any]:
    """Of each account the oldest job whose inputs are there and whose scene was not read yet; but for the
    jobs `resting` and the accounts `busy`.
    """
    waiting = farmwide(
        sa.select(sa.func.min(jobs.c.id)).join(job_state, job_state.c.job_id == jobs.c.id)
    ).where(
        job_state.c.scene_read.is_(False),
        job_state.c.missing == 0,
        job_state.c.failed_cause.is_(None),
        job_state.c.cancel_ms.is_(None),
        jobs.c.deleted_ms.is_(None),
    )
    if resting:
        waiting = waiting.where(jobs.c.id.not_in(resting))
    if busy:
        waiting = waiting.where(jobs.c.account_id.not_in(busy))
    query = farmwide(
        sa.select(jobs, packages.c.release, accounts.c.allow_scripts)
        .join(packages, packages.c.id == jobs.c.package_id)
        .join(accounts, accounts.c.id == jobs.c.account_id)
    ).where(jobs.c.id.in_(waiting.group_by(jobs.c.account_id)))
    return list(tx.conn.execute(query.order_by(jobs.c.id).limit(20)).mappings())


def read(context: AppContext, job: Any) -> dict[str, Any]:
    """Read the job's scene files in their sandbox; what `settle` writes down."""
    account, request = job["account_id"], job["request"]
    entries = list(manifests.load(context.store, account, job["manifest_sha256"]))
    deadline = time.monotonic() + READ_SECONDS
    at = {e.path: context.store.path(e.content_key(account)) for e in entries}

    known: dict[str, SceneFacts] = {}

    def reading(paths: Sequence[str]) -> list[SceneFacts]:
        fresh = [(p, at[p]) for p in paths if p not in known]
        left = max(0.0, deadline - time.monotonic())
        if fresh:
            mode = context.settings.sandbox
            found = scene_reader.read_scenes(fresh, left, sandbox=mode, stopping=lambda: context.draining)
            known.update({facts.path: facts for facts in found})
        return [known[p] for p in paths]

    warnings: list[dict[str, str]] = []
    chosen = _choose(job, reading, list(at), warnings)
    if chosen.cause is not None:
        raise Unrenderable(chosen.cause, chosen.message or f"{chosen.path} cannot be read.")
    if not blenders.opens(chosen.blender_version, job["release"]):
        raise Unrenderable(
            "newer_file", file=chosen.path, saved=chosen.blender_version, blender=job["release"]
        )
    uploads = Uploads(at)
    found = missing_files.look(chosen, uploads, reading)
    if colours := request["environment_variables"].get("OCIO"):
        config = normalise(colours).text
        [facts] = reading([config])
        found.missing |= missing_files.look_at_colours(config, facts, uploads)
    asked = request.get("on_missing_files", "warn")
    if found.missing and asked == "fail":
        raise failures.missing_files(list(found.missing))
    settled = _frames(job, chosen, warnings + found.warnings())
    settled["scene"]["aliases"] = found.aliases
    return settled | {"hold": bool(found.missing) and asked == "hold"}


def _choose(
    job: Any, reading: missing_files.Reading, paths: Sequence[str], warnings: list[dict[str, str]]
) -> SceneFacts:
    """The scene: the one named, else the only .blend that no other links."""
    if job["scene_path"] is not None:
        return reading([job["scene_path"]])[0]
    found = reading([p for p in paths if p.lower().endswith(".blend")])
    linked = {library.path for facts in found for library in facts.libraries}
    free = [facts for facts in found if facts.path not in linked]
    chosen = (free or found)[0]
    if len(found) > 1 and len(free) != 1:
        text = explain("scene_guessed", {"path": chosen.path})
        warnings.append({"code": "scene_guessed", "message": text, "subject": chosen.path})
    return chosen


def _frames(job: Any, chosen: scene_reader.SceneFacts, warnings: list[dict[str, str]]) -> dict[str, Any]:
    request = job["request"]
    scene = chosen.scene(request.get("scene"))
    if scene is None:
        names = ", ".join(s.name for s in chosen.scenes)
        raise Unrenderable("unknown_scene", name=repr(request.get("scene")), has=names)
    _known(job, chosen, scene)
    own = FrameSet([Run(scene.frame_start, scene.frame_end, max(1, scene.frame_step))])
    try:
        parsed = grammar.parse(request["frame_range"])
        frames = parsed.of(own) if isinstance(parsed, Pick) else parsed
        scouts = grammar.resolve_scouts(request["scout_frames"], frames)
    except FrameSpecError as error:
        raise Unrenderable("bad_frames", what=str(error).rstrip(".")) from None
    if scene.unbaked_simulations:
        what = ", ".join(sorted({f"{s.kind} on {s.object}" for s in scene.unbaked_simulations})[:5])
        text = explain("unbaked_simulation", {"what": what})
        warnings.append({"code": "unbaked_simulation", "message": text, "subject": chosen.path})
    return {
        "scene_path": chosen.path,
        "frames": frames.to_text(),
        "scouts": scouts.to_text(),
        "scene": {
            "path": chosen.path,
            "blender_version": chosen.blender_version,
            "scenes": [s.name for s in chosen.scenes],
            **msgspec.to_builtins(scene),
        },
        "warnings": warnings,
    }


def _known(job: Any, chosen: SceneFacts, scene: Scene) -> None:
    """Raise Unrenderable for a camera or view layer that the scene can't have. What a library, an add-on or a
    script may bring, Blender tells."""
    request = job["request"]
    alone = not (job["allow_scripts"] or request.get("addons"))
    camera = request.get("camera")
    if camera is not None and alone and not chosen.libraries and camera not in chosen.cameras:
        has = ", ".join(scene.cameras[:MOST_NAMED]) or "none"
        raise Unrenderable("unknown_camera", name=repr(camera), has=has)
    for name in request.get("view_layers") or ():
        if alone and name not in scene.view_layers and not blenders.opens(chosen.blender_version, OLD_LAYERS):
            has = ", ".join(scene.view_layers[:MOST_NAMED]) or "none"
            raise Unrenderable("unknown_view_layer", name=repr(name), has=has)


def settle(tx: Tx, context: AppContext, job: Any, found: dict[str, Any]) -> None:
    """The scene is known: so are the job's frames and tasks."""
    state = job_states.lock(tx, job["id"])
    if state.scene_read or state.missing:
        return
    plan = TaskPlan(
        FrameSet.from_text(found["frames"]), FrameSet.from_text(found["scouts"]), job["chunk_size"]
    )
    key = jobs.c.id == job["id"]
    have = tx.conn.execute(farmwide(sa.select(jobs.c.warnings)).where(key)).scalar_one()
    values = {k: v for k, v in found.items() if k != "hold"} | {"warnings": have + found["warnings"]}
    tx.conn.execute(farmwide(sa.update(jobs)).where(key).values(values))
    state.scene_read = True
    state.task_count = plan.task_count
    state.scout_count = plan.scout_count
    state.frame_count = len(FrameSet.from_text(found["frames"]))
    if found.get("hold"):
        job_states.add_hold(state, "rule")
    state.emit(tx, "system", "job.scene_read", {"frames": state.frame_count, "tasks": plan.task_count})
    job_states.save(tx, state)
    tx.wake("dispatch")


def fail(tx: Tx, job: Any, error: Unrenderable) -> None:
    """The job fails before any machine starts."""
    state = job_states.lock(tx, job["id"])
    if state.scene_read:
        return
    state.failed_cause, state.failed_message = error.cause, error.message
    job_states.save(tx, state)


def complete(tx: Tx, store: LocalStore, job_ids: list[str]) -> None:
    """Missing files arrived: jobs with none left go on with a whole manifest."""
    for job_id in sorted(set(job_ids)):
        state = job_states.lock(tx, job_id)
        left = manifests.missing_count(tx, job_id)
        if left == 0 and state.missing:
            job = tx.conn.execute(farmwide(sa.select(jobs)).where(jobs.c.id == job_id)).mappings().one()
            whole = manifests.complete(tx, store, job)
            if whole is None:
                left = manifests.missing_count(tx, job_id)
            else:
                mine = jobs.c.id == job_id
                tx.conn.execute(farmwide(sa.update(jobs)).where(mine).values(manifest_sha256=whole))
        if left < state.missing:
            state.arrived_ms = tx.now_ms
        state.missing = left
        job_states.save(tx, state)
    if job_ids:
        tx.wake("scenes")


def at_once() -> int:
    """How many scenes are read at once: one that takes long holds up no other account's."""
    return min(len(os.sched_getaffinity(0)), MOST_AT_ONCE)


async def run(context: AppContext) -> None:
    """The scene reader's life: woken by submissions and uploads, else looking now and then.

    Of an account one scene is read at a time; who begins is whose job is oldest.
    """
    resting: dict[str, float] = {}
    work: dict[asyncio.Task[bool], Any] = {}
    try:
        async with context.hub.listen("scenes") as woken:
            while True:
                resting = {job: until for job, until in resting.items() if until > time.monotonic()}
                try:
                    await _begin(context, work, list(resting))
                except Exception:
                    log.exception("scene_reading_failed")
                looking = asyncio.create_task(woken.wait(LOOK_SECONDS))
                try:
                    done, _ = await asyncio.wait({looking, *work}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    looking.cancel()
                for task in done - {looking}:
                    job = work.pop(task)
                    if not task.result():
                        resting[job["id"]] = time.monotonic() + REST_SECONDS
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def _begin(context: AppContext, work: dict[asyncio.Task[bool], Any], resting: list[str]) -> None:
    """Begin to read as many scenes as there is room for."""
    room = at_once() - len(work)
    if room <= 0:
        return
    busy = {job["account_id"] for job in work.values()}
    waiting = await context.db.read(unread, [*resting, *(job["id"] for job in work.values())], busy)
    for job in waiting[:room]:
        work[asyncio.create_task(_one(context, job))] = job


async def _one(context: AppContext, job: Any) -> bool:
    """Whether the job went on or failed. If the farm is at fault it waits, and holds up no other job."""
    try:
        try:
            found = await run_in_threadpool(read, context, job)
        except Unrenderable as error:
            await context.db.write(fail, job, error)
        else:
            await context.db.write(settle, context, job, found)
    except Stopped:  # the farm stops; its next start reads it
        return False
    except Exception:
        log.exception("scene_not_read", job=job["id"])
        return False
    return True
