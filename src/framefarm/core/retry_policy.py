"""When a failed task is not retried although retries remain, and when it ends the whole job:
`(failure, earlier failures) → reason`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framefarm.core.failure_codes import (
    CAUSES,
    Fault,
    fails_everywhere,
    is_known_at_opening,
    is_scene_fault,
)

ENOUGH = 2
"""Equal failures that end a task's retries: on different nodes, or with a code that fails everywhere."""
ENOUGH_OF_A_JOB = 3
"""Equal failures, of any tasks, that end a job which has got no further: or `ENOUGH` on different nodes."""
BEFORE_ANY_FRAME = frozenset({"no_gl"})
"""Codes that say of the job's first frame that no other will be rendered."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt of the task that failed or timed out."""

    node: str
    cause: str | None


def reason_not_to_retry(latest: Failure, earlier: Sequence[Failure]) -> str | None:
    """Sentence for the artist; None: the task is retried while `task_retries` remain.

    `earlier`: failures that used up retries before. Failures that a node or the farm may have caused are
    always retried.
    """
    if latest.cause is None:
        return None
    equal = [latest, *(f for f in earlier if f.cause == latest.cause)]
    nodes = len({f.node for f in equal})
    if nodes >= ENOUGH and is_scene_fault(latest.cause):
        origin = "the scene" if CAUSES[latest.cause].fault is Fault.SCENE else "what was asked for"
        return f"It failed alike on {nodes} machines, so the fault is with {origin}: it is not tried again."
    if len(equal) >= ENOUGH and fails_everywhere(latest.cause):
        return f"It failed alike {len(equal)} times, and would on every machine: it is not tried again."
    return None


def needs_earlier_failures(cause: str | None, *, opened: bool, rendered: bool) -> bool:
    """Whether `reason_to_fail_job` depends on the job's earlier failures with this cause.

    `opened`: a session of the job has opened the scene. `rendered`: a frame of the job is committed.
    """
    if cause is None or rendered or not is_scene_fault(cause):
        return False
    return not opened or cause in BEFORE_ANY_FRAME


def reason_to_fail_job(
    latest: Failure, earlier: Sequence[Failure], *, opened: bool, rendered: bool, at_opening: bool
) -> str | None:
    """Sentence for the artist if the whole job fails with this task; else None.

    `earlier`: the job's failures before, of all its tasks. `at_opening`: it failed before its first frame. A
    scene that opens nowhere is not opened once more for each task.
    """
    if latest.cause is None or not needs_earlier_failures(latest.cause, opened=opened, rendered=rendered):
        return None
    if at_opening and is_known_at_opening(latest.cause):
        return "Every task would fail so: none of them is started."
    equal = [latest, *(f for f in earlier if f.cause == latest.cause)]
    if len({f.node for f in equal}) >= ENOUGH or len(equal) >= ENOUGH_OF_A_JOB:
        return f"No task got further, and {len(equal)} failed alike: no other one is started."
    return None
