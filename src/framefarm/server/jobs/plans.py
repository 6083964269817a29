"""A job's tasks, computed: from its frames, scouts and chunk size, kept for a while because parsing costs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from framefarm.core.frames import FrameSet, TaskPlan


@lru_cache(maxsize=512)
def _plan(frames: str, scouts: str, chunk_size: int) -> TaskPlan:
    empty = FrameSet.from_text("") if not scouts else FrameSet.from_text(scouts)
    return TaskPlan(FrameSet.from_text(frames), empty, chunk_size)


def plan_of(job: Any) -> TaskPlan | None:
    """The plan of a row of `jobs` (or mapping); None until its frames are known."""
    return None if job["frames"] is None else _plan(job["frames"], job["scouts"], job["chunk_size"])
