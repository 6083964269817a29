"""Free capacity of nodes, as the dispatcher plans from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framefarm.core import schedule
from framefarm.core.node_health import NodeState
from framefarm.server.dispatch.demand import group_by
from framefarm.server.engines.base import Capacity
from framefarm.server.rows import InstanceTypeRow, NodeRow, SessionRow


def open_to_sessions(capacity: list[Capacity], nodes: Mapping[str, NodeRow]) -> list[Capacity]:
    """The machines that may have sessions: neither set aside nor about to be taken."""
    return [
        c
        for c in capacity
        if (row := nodes.get(c.total.node)) is None
        or (row.standing != NodeState.SET_ASIDE and row.leaving_ms is None)
    ]


def room(
    capacity: list[Capacity], taken: Sequence[SessionRow], nodes: Mapping[str, NodeRow] | None = None
) -> list[schedule.Machine]:
    """What machines have, minus every session that holds a slot, observed or not. One that is on trial has
    one session at a time."""
    sessions_on = group_by(taken, lambda session: session.node)
    found = []
    for machine in capacity:
        total = machine.total
        mine = sessions_on[total.node]
        row = (nodes or {}).get(total.node)
        on_trial = row is not None and row.standing == NodeState.ON_TRIAL
        found.append(
            schedule.Machine(
                total.node,
                total.zone,
                total.cores - sum(s.cores for s in mine),
                total.memory_bytes - sum(s.memory_bytes for s in mine),
                total.gpus - sum(s.gpus for s in mine),
                max(0, 1 - len(mine)) if on_trial else None,
            )
        )
    return found


def available(free: list[schedule.Machine], types: Mapping[str, InstanceTypeRow]) -> dict[str, int]:
    """Instance type → how many sessions could start now."""
    return {type_id: schedule.count(free, slot_of(kind)) for type_id, kind in types.items()}


def slot_of(instance_type: InstanceTypeRow) -> schedule.Slot:
    return schedule.Slot(instance_type.cores, instance_type.memory_bytes, instance_type.gpu_count)
