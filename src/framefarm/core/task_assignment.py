"""How many tasks a session is assigned at once. Pure."""

from __future__ import annotations


def batch_size(
    *,
    held: int,
    frame_ms: int | None,
    frames_per_task: int,
    ready: int,
    live_sessions: int,
    look_ahead_ms: int = 1000,
) -> int:
    """Number of further tasks for a session that holds `held` unfinished ones.

    `frame_ms`: the job's mean render time of a frame; None: not known yet. `ready`: the job's tasks that
    could be assigned now. `live_sessions`: the job's sessions.

    The tasks add up to about `look_ahead_ms` of work, are at most 16, and leave the job's other sessions
    their share. While the length is unknown, tasks are assigned one at a time. If tasks are plentiful, one
    more than needed is held, so that Blender does not wait for the server.
    """
    if frame_ms is None:
        target = 1
    else:
        task_ms = max(1, frame_ms * frames_per_task)
        target = max(1, min(16, look_ahead_ms // task_ms))
        if ready > live_sessions:
            target = max(target, 2)
    if held * 2 > target:
        return 0
    fair = max(1, ready // max(1, live_sessions)) if held == 0 else ready // max(1, live_sessions)
    return max(0, min(target - held, fair, ready))
