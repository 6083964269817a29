"""When a failed task is not retried although retries remain: `(failure, earlier failures) → reason`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framefarm.core.failure_codes import CAUSES, Fault, fails_everywhere, is_scene_fault

ENOUGH = 2
"""Equal failures that end a task's retries: on different nodes, or with a code that fails everywhere."""


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
