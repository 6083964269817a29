"""When sessions leave a node that its provider is about to take away. Pure; times in milliseconds.

At first they drain: they end their tasks and get no more. Shortly before the deadline they are preempted:
they end the frame in work and are then killed. `grace_ms` is the time for that frame, `stop_ms` the time that
the engine may need to kill a session.
"""

from __future__ import annotations


def preempt_until_ms(deadline_ms: int, now_ms: int, *, grace_ms: int, stop_ms: int) -> int | None:
    """Time at which a preempted session on the departing node is killed; None while it only drains."""
    until_ms = max(now_ms, deadline_ms - stop_ms)
    return until_ms if now_ms >= until_ms - grace_ms else None


def preemption_starts_ms(deadline_ms: int, now_ms: int, *, grace_ms: int, stop_ms: int) -> int | None:
    """Time at which sessions on the departing node go from draining to preempted; None if that has passed."""
    at = deadline_ms - stop_ms - grace_ms
    return at if at > now_ms else None
