"""The detail of one job. A job may have 100,000 inputs: they are read and encoded in a thread, outside of any
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import msgspec
import sqlalchemy as sa

from framefarm.server.actor import Actor
from framefarm.server.catalog.tables import packages
from framefarm.server.database import Tx
from framefarm.server.files import manifests
from framefarm.server.files.tables import missing_paths
from framefarm.server.job_api.actions import find_job
from framefarm.server.job_api.forecast import forecast_of
from framefarm.server.job_api.summary import ListedJob, listed_jobs, running_costs, summary
from framefarm.server.jobs import warnings
from framefarm.server.jobs.tables import job_dependencies, jobs, tasks
from framefarm.server.json_types import Answer
from framefarm.server.rows import FrameRow, JobRow, JobStateRow
from framefarm.server.sessions import progress
from framefarm.server.sessions.tables import frames, sessions
from framefarm.server.storage.local import LocalStore
from framefarm.server.tenancy import farmwide
from framefarm.server.timestamps import iso

SignThumbnail = Callable[[str, FrameRow], str | None]
"""Makes a thumbnail's address from an account's id and the frame's row; None if it has no thumbnail."""
PIECE = 5000
"""Items of a list that are encoded at once."""


class _Input(msgspec.Struct):
    """`JobInput` of `protocol/api_jobs.py`, as a msgspec class for speed."""

    path: str
    md5: str | None
    size: int | None
    registered_at: str | None


def detail(tx: Tx, actor: Actor, job_id: str, sign: SignThumbnail) -> tuple[Answer, tuple[str, str]]:
    """The job without its inputs, and (account, manifest SHA-256) for `encode`. Raises NotFound."""
    job = find_job(tx, actor, job_id)
    state = tx.row(ListedJob, listed_jobs(actor.account_id).where(jobs.c.id == job_id))
    running_micros = running_costs(tx, [job_id]).get(job_id, 0)
    answer = summary(state, running_micros)
    request = job.request
    cause, message = _cause(tx, state)
    missing = farmwide(sa.select(missing_paths.c.path)).where(missing_paths.c.job_id == job_id)
    depends = farmwide(sa.select(job_dependencies.c.depends_on)).where(job_dependencies.c.job_id == job_id)
    live = farmwide(sa.select(sa.func.count()).select_from(sessions)).where(
        sessions.c.job_id == job_id, ~sessions.c.ended
    )
    release = sa.select(packages.c.release).where(packages.c.id == job.package_id)
    mean = None if state.frame_ms is None else state.frame_ms / 1000
    frames_left = state.frame_count - state.frames_done if state.frame_count is not None else None
    session_count = max(1, tx.conn.execute(live).scalar_one())
    answer |= {
        name: request.get(name)
        for name in (
            "preemptible_retries", "chunk_size", "scout_frames", "render_software", "output_path",
            "environment_variables", "max_sessions", "task_retries", "max_task_runtime_seconds",
            "metadata", "hold", "scene", "camera", "view_layers", "resolution_percentage", "samples",
            "notify", "output_name",
        )
    }  # fmt: skip
    answer |= {
        "on_missing_files": request.get("on_missing_files", "warn"),
        "on_blocked_scripts": request.get("on_blocked_scripts", "hold"),
        "addons": request.get("addons", []),
        "scene_path": job.scene_path,
        "output_url": job.output_url,
        "depends_on": request.get("depends_on") or sorted(tx.conn.execute(depends).scalars()),
        "cause": cause,
        "message": message,
        "warnings": _warnings_with_thumbnails(tx, job, sign),
        "missing_files": warnings.missing_files(job.warnings, job.created_ms),
        "missing_paths": sorted(tx.conn.execute(missing).scalars()),
        "scene_info": job.scene and {k: v for k, v in job.scene.items() if k != "aliases"},
        "average_frame_seconds": mean,
        "remaining_seconds": None
        if mean is None or frames_left is None
        else mean * frames_left / session_count,
        "forecast": forecast_of(tx, state, state.cost_micros + running_micros),
        "blender_release": tx.conn.execute(release).scalar_one_or_none(),
        "frames_in_work": progress.in_work(tx, job_id),
    }
    return answer, (job.account_id, job.manifest_sha256)


def _warnings_with_thumbnails(tx: Tx, job: JobRow, sign: SignThumbnail) -> list[Answer]:
    """The job's warnings; one about a frame has its thumbnail's address, too."""
    numbers = sorted({w["frame"] for w in job.warnings if w.get("frame") is not None})
    if not numbers:
        return warnings.shown(job.warnings)
    query = farmwide(sa.select(frames)).where(frames.c.job_id == job.id, frames.c.frame.in_(numbers))
    latest = newest(tx.rows(FrameRow, query))
    signed = {n: sign(job.account_id, f) for n, f in latest.items()}
    return [w | {"thumbnail": signed.get(w.get("frame", -1))} for w in warnings.shown(job.warnings)]


def _cause(tx: Tx, state: JobStateRow) -> tuple[str | None, str | None]:
    """(failure code, sentence) of the whole job's failure, else of its first failed task."""
    if state.failed_cause is not None:
        return state.failed_cause, state.failed_message
    if not state.rows_failed and not state.rows_preempted:
        return None, None
    query = sa.select(tasks.c.number, tasks.c.cause, tasks.c.reason, tasks.c.status).where(
        tasks.c.job_id == state.job_id, tasks.c.status.in_(["failed", "preempted"])
    )
    first = tx.conn.execute(query.order_by(tasks.c.number).limit(1)).one()
    count = state.rows_failed + state.rows_preempted
    more = f" ({count} tasks ended so.)" if count > 1 else ""
    return first.cause or first.status, f"Task {first.number:03d}: {first.reason or first.status}{more}"


def newest(rows: Iterable[FrameRow]) -> dict[int, FrameRow]:
    """Frame number → its row of the highest revision."""
    best: dict[int, FrameRow] = {}
    for row in rows:
        if row.frame not in best or row.revision > best[row.frame].revision:
            best[row.frame] = row
    return best


def encode(store: LocalStore, account_id: str, manifest_sha256: str, answer: Answer) -> bytes:
    """The answer with the job's inputs, as JSON.

    In pieces: msgspec keeps other threads from running while it encodes one, and each piece is freed at once.
    """
    paths, inputs = [], []
    entries = manifests.load(store, account_id, manifest_sha256)
    while piece := list(islice(entries, PIECE)):
        paths.append(_items([e.path for e in piece]))
        inputs.append(_items([_Input(e.path, e.md5, e.size, iso(e.registered_ms)) for e in piece]))
    lists = {"upload_paths": paths, "inputs": inputs}
    rest = msgspec.json.encode({name: value for name, value in answer.items() if name not in lists})
    encoded = (f',"{name}":['.encode() + b",".join(pieces) + b"]" for name, pieces in lists.items())
    return b"".join([rest[:-1], *encoded, b"}"])


def _items(items: Sequence[str | _Input]) -> bytes:
    return msgspec.json.encode(items)[1:-1]
