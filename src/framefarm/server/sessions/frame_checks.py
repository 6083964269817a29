"""Checks of committed frames beside their neighbours, and the sizes of their thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from framefarm.core.failure_codes import explain
from framefarm.core.frame_colour import FrameColour, is_outlier
from framefarm.core.frames import FrameSet
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs import warnings as job_warnings
from framefarm.server.jobs.warnings import JobWarning
from framefarm.server.sessions.report_changes import NewFile, NewFrame
from framefarm.server.sessions.tables import attempts, files, frames
from framefarm.server.tenancy import farmwide

UNIFORM = "uniform_picture"
MOST_THUMBNAIL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CommittedFrame:
    """A frame that an earlier report committed: the columns that the check needs."""

    frame: int
    revision: int
    look: str | None
    warnings: list[JobWarning] | None


Frame = CommittedFrame | NewFrame


def colour_text(reported: msg.FrameColour | None) -> str | None:
    """The frame colour as the column `look` stores it; None if it was not reported, or is none."""
    if reported is None:
        return None
    colour = None if reported.colour is None else tuple(reported.colour)
    return FrameColour(colour).to_text() if colour is None or len(colour) in (1, 3) else None


def neighbours(all_frames: FrameSet, frame: int) -> list[int]:
    """The frames before and after `frame` in the job."""
    position = all_frames.position_of(frame)
    return [all_frames.nth(p) for p in (position - 1, position + 1) if 0 <= p < len(all_frames)]


_COMMITTED = farmwide(
    sa.select(frames.c.frame, frames.c.revision, frames.c.look, frames.c.warnings).where(
        frames.c.job_id == sa.bindparam("job"), frames.c.frame.in_(sa.bindparam("numbers", expanding=True))
    )
)


def committed_beside(
    tx: Tx, job_id: str, all_frames: FrameSet, saved: Sequence[msg.FrameSaved]
) -> list[CommittedFrame]:
    """Earlier commits of the frames `saved` and, where their colour was reported, of their neighbours."""
    numbers = {e.frame for e in saved}
    for event in saved:
        if event.look is not None and event.frame in all_frames:
            numbers.update(neighbours(all_frames, event.frame))
    return tx.rows(CommittedFrame, _COMMITTED, {"job": job_id, "numbers": sorted(numbers)})


def warn_of_outliers(
    tx: Tx,
    job_id: str,
    all_frames: FrameSet,
    committed: Iterable[CommittedFrame],
    new_frames: Sequence[NewFrame],
    new_files: Sequence[NewFile],
) -> list[JobWarning]:
    """Warn of frames of one colour beside others, in their rows and the job's. Returns the warnings.

    `new_frames` and `new_files` are rows about to be inserted: they get their warnings in memory. `committed`
    are the rows of the same frames and their neighbours that exist already.
    """
    newest: dict[int, Frame] = {}
    rows: list[Frame] = [*committed, *new_frames]
    for row in rows:
        known = newest.get(row.frame)
        if known is None or row.revision >= known.revision:
            newest[row.frame] = row
    made = []
    for frame, row in sorted(newest.items()):
        if not row.look or any(w["code"] == UNIFORM for w in row.warnings or ()):
            continue
        beside = [_colour(newest.get(n)) for n in neighbours(all_frames, frame)]
        if not is_outlier(_colour(row), beside):
            continue
        path = _picture_path(tx, job_id, row, new_files)
        warning = msg.NodeWarning(code=UNIFORM, message=explain(UNIFORM, {"path": path}), subject=path)
        warnings = [*(row.warnings or ()), job_warnings.to_json(warning)]
        if isinstance(row, NewFrame):
            row.warnings = warnings
        else:
            key = (
                (frames.c.job_id == job_id)
                & (frames.c.frame == row.frame)
                & (frames.c.part == 0)
                & (frames.c.revision == row.revision)
            )
            tx.conn.execute(farmwide(sa.update(frames)).where(key).values(warnings=warnings))
        job_warnings.add(tx, job_id, [warning], frame)
        made.append(job_warnings.to_json(warning, frame))
    return made


def _colour(row: Frame | None) -> FrameColour | None:
    return None if row is None or row.look is None else FrameColour.from_text(row.look)


def _picture_path(tx: Tx, job_id: str, row: Frame, new_files: Sequence[NewFile]) -> str:
    """Path of the frame's first picture."""
    if isinstance(row, NewFrame):
        return next(f.path for f in new_files if f.frame == row.frame)
    query = farmwide(sa.select(files.c.path)).where(
        files.c.job_id == job_id,
        files.c.frame == row.frame,
        files.c.revision == row.revision,
        files.c.kind == "frame",
    )
    return str(tx.conn.execute(query.order_by(files.c.id).limit(1)).scalar() or f"frame {row.frame}")


_FRAMES_OF_SESSION = farmwide(
    sa.select(frames.c.frame, frames.c.revision, frames.c.attempt_id)
    .join(attempts, attempts.c.id == frames.c.attempt_id)
    .where(
        frames.c.job_id == sa.bindparam("job"),
        frames.c.frame.in_(sa.bindparam("numbers", expanding=True)),
        attempts.c.session_id == sa.bindparam("session"),
    )
)


@lru_cache(maxsize=1)
def _set_thumbnail_bytes() -> sa.Update:
    key = sa.and_(
        frames.c.job_id == sa.bindparam("job"),
        frames.c.frame == sa.bindparam("number"),
        frames.c.part == 0,
        frames.c.revision == sa.bindparam("at_revision"),
    )
    return farmwide(sa.update(frames)).where(key).values(thumbnail_bytes=sa.bindparam("size"))


def record_thumbnails(
    tx: Tx, job_id: str, session_id: str, drawn: list[msg.FrameDrawn]
) -> set[tuple[str, int]]:
    """Record the sizes of thumbnails; returns (attempt, frame) of each that was recorded.

    Only for frames that attempts of this session committed. The attempts need not own their tasks any more.
    """
    sizes = {(d.attempt, d.frame): d.bytes for d in drawn if 0 < d.bytes <= MOST_THUMBNAIL_BYTES}
    if not sizes:
        return set()
    numbers = sorted({frame for _, frame in sizes})
    rows = tx.conn.execute(_FRAMES_OF_SESSION, {"job": job_id, "numbers": numbers, "session": session_id})
    accepted = [row for row in rows if (row.attempt_id, row.frame) in sizes]
    if accepted:
        changes = [
            {
                "job": job_id,
                "number": row.frame,
                "at_revision": row.revision,
                "size": sizes[row.attempt_id, row.frame],
            }
            for row in accepted
        ]
        tx.conn.execute(_set_thumbnail_bytes(), changes)
    return {(row.attempt_id, row.frame) for row in accepted}
