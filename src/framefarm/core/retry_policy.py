"""When a task that failed is not tried again, retries left or not: `(failure, those before) → why`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framefarm.core.failure_codes import CAUSES, Fault, fails_everywhere, is_scene_fault

ENOUGH = 2
"""Machines on which a task fails alike, or tries of what must end so everywhere."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A try of the task that failed or took too long."""

    node: str
    cause: str | None


def reason_not_to_retry(now: Failure, before: Sequence[Failure]) -> str | None:
    """A sentence for the artist; None: it is tried again while its `task_retries` last. `before`: the
    failures that these were spent on. What may be a machine's fault or the farm's is always tried again."""
    if now.cause is None:
        return None
    alike = [now, *(f for f in before if f.cause == now.cause)]
    machines = len({f.node for f in alike})
    if machines >= ENOUGH and is_scene_fault(now.cause):
        whose = "the scene" if CAUSES[now.cause].fault is Fault.SCENE else "what was asked for"
        return f"It failed alike on {machines} machines, so the fault is with {whose}: it is not tried again."
    if len(alike) >= ENOUGH and fails_everywhere(now.cause):
        return f"It failed alike {len(alike)} times, and would on every machine: it is not tried again."
    return None
