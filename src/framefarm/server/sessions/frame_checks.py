"""What committed frames look like beside each other, and their thumbnails."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from framefarm.core.failure_codes import explain
from framefarm.core.frame_colour import FrameColour, is_outlier
from framefarm.core.frames import FrameSet
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs import warnings as told
from framefarm.server.sessions.tables import attempts, files, frames
from framefarm.server.tenancy import farmwide

UNIFORM = "uniform_picture"
MOST_THUMBNAIL_BYTES = 1 << 20


def look_text(told: msg.FrameColour | None) -> str | None:
    """As the row keeps it; None for what can't be a look."""
    if told is None:
        return None
    colour = None if told.colour is None else tuple(told.colour)
    return FrameColour(colour).to_text() if colour is None or len(colour) in (1, 3) else None


def neighbours(all_frames: FrameSet, frame: int) -> list[int]:
    """The frames before and after `frame` in the job."""
    position = all_frames.position_of(frame)
    around = (position - 1, position + 1)
    return [all_frames.nth(p) for p in around if 0 <= p < len(all_frames)]


_COMMITTED = farmwide(
    sa.select(frames.c.frame, frames.c.revision, frames.c.look, frames.c.warnings).where(
        frames.c.job_id == sa.bindparam("job"), frames.c.frame.in_(sa.bindparam("numbers", expanding=True))
    )
)


def around(tx: Tx, job_id: str, all_frames: FrameSet, saved: list[msg.FrameSaved]) -> list[Any]:
    """What was committed before of these frames and, where they can be judged, of those beside them."""
    numbers = {e.frame for e in saved}
    for event in saved:
        if event.look is not None and event.frame in all_frames:
            numbers.update(neighbours(all_frames, event.frame))
    return list(tx.conn.execute(_COMMITTED, {"job": job_id, "numbers": sorted(numbers)}).mappings())


def judge(
    tx: Tx,
    job_id: str,
    all_frames: FrameSet,
    committed: Iterable[Any],
    saved: list[dict[str, Any]],
    files_saved: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Warn of frames of one colour beside others. `saved` and `files_saved` are rows about to be inserted,
    `committed` those of them and their neighbours that are there. Returns the job's new warnings."""
    newest: dict[int, Any] = {}
    for row in (*committed, *saved):
        known = newest.get(row["frame"])
        if known is None or row["revision"] >= known["revision"]:
            newest[row["frame"]] = row
    made = []
    fresh = {id(row) for row in saved}
    for frame, row in sorted(newest.items()):
        if not row["look"] or any(w["code"] == UNIFORM for w in row["warnings"] or ()):
            continue
        beside = [_look(newest.get(n)) for n in neighbours(all_frames, frame)]
        if not is_outlier(_look(row), beside):
            continue
        is_fresh = id(row) in fresh
        path = _path(tx, job_id, row, files_saved if is_fresh else None)
        note = msg.NodeWarning(code=UNIFORM, message=explain(UNIFORM, {"path": path}), subject=path)
        warnings = [*(row["warnings"] or ()), told.row(note)]
        if is_fresh:
            row["warnings"] = warnings
        else:
            change = farmwide(sa.update(frames)).where(_key(job_id, row))
            tx.conn.execute(change.values(warnings=warnings))
        told.add(tx, job_id, [note], frame)
        made.append(told.row(note) | {"frame": frame})
    return made


def _look(row: Any) -> FrameColour | None:
    return None if row is None or row["look"] is None else FrameColour.from_text(row["look"])


def _path(tx: Tx, job_id: str, row: Any, rows: list[dict[str, Any]] | None) -> str:
    """Of the frame's first picture."""
    if rows is not None:
        return next(str(f["path"]) for f in rows if f["frame"] == row["frame"])
    query = farmwide(sa.select(files.c.path)).where(
        files.c.job_id == job_id,
        files.c.frame == row["frame"],
        files.c.revision == row["revision"],
        files.c.kind == "frame",
    )
    return str(tx.conn.execute(query.order_by(files.c.id).limit(1)).scalar() or f"frame {row['frame']}")


def _key(job_id: str, row: Any) -> Any:
    return sa.and_(
        frames.c.job_id == job_id,
        frames.c.frame == row["frame"],
        frames.c.part == 0,
        frames.c.revision == row["revision"],
    )


_MINE = farmwide(
    sa.select(frames.c.frame, frames.c.revision, frames.c.attempt_id)
    .join(attempts, attempts.c.id == frames.c.attempt_id)
    .where(
        frames.c.job_id == sa.bindparam("job"),
        frames.c.frame.in_(sa.bindparam("numbers", expanding=True)),
        attempts.c.session_id == sa.bindparam("session"),
    )
)


@lru_cache(maxsize=1)
def _draw() -> sa.Update:
    key = sa.and_(
        frames.c.job_id == sa.bindparam("job"),
        frames.c.frame == sa.bindparam("number"),
        frames.c.part == 0,
        frames.c.revision == sa.bindparam("turn"),
    )
    return farmwide(sa.update(frames)).where(key).values(thumbnail_bytes=sa.bindparam("size"))


def keep_thumbnails(
    tx: Tx, job_id: str, session_id: str, drawn: list[msg.FrameDrawn]
) -> set[tuple[str, int]]:
    """Write down the thumbnails of frames that attempts of this session committed, whoever owns their tasks
    by now: (attempt, frame) of each."""
    said = {(d.attempt, d.frame): d.bytes for d in drawn if 0 < d.bytes <= MOST_THUMBNAIL_BYTES}
    if not said:
        return set()
    numbers = sorted({frame for _, frame in said})
    found = tx.conn.execute(_MINE, {"job": job_id, "numbers": numbers, "session": session_id}).all()
    mine = [row for row in found if (row.attempt_id, row.frame) in said]
    if mine:
        changes = [
            {
                "job": job_id,
                "number": row.frame,
                "turn": row.revision,
                "size": said[row.attempt_id, row.frame],
            }
            for row in mine
        ]
        tx.conn.execute(_draw(), changes)
    return {(row.attempt_id, row.frame) for row in mine}
