"""Free capacity of nodes, as the dispatcher plans from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framefarm.core import schedule
from framefarm.core.node_health import NodeState
from framefarm.server.dispatch.demand import group_by, slot_of
from framefarm.server.engines.base import Capacity
from framefarm.server.rows import InstanceTypeRow, NodeRow, SessionRow


def open_to_sessions(capacity: list[Capacity], nodes: Mapping[str, NodeRow]) -> list[Capacity]:
    """Capacity of the nodes that may get sessions: neither set aside nor about to depart."""
    return [
        c
        for c in capacity
        if (row := nodes.get(c.total.node)) is None
        or (row.standing != NodeState.SET_ASIDE and row.leaving_ms is None)
    ]


def room(
    capacity: list[Capacity], taken: Sequence[SessionRow], nodes: Mapping[str, NodeRow] | None = None
) -> list[schedule.NodeCapacity]:
    """Free capacity of nodes: the total without all sessions that hold a slot, observed or not.

    A node on trial has one session at a time.
    """
    sessions_on = group_by(taken, lambda session: session.node)
    free = []
    for total in (c.total for c in capacity):
        on_node = sessions_on[total.node]
        row = (nodes or {}).get(total.node)
        on_trial = row is not None and row.standing == NodeState.ON_TRIAL
        free.append(
            schedule.NodeCapacity(
                total.node,
                total.zone,
                total.cores - sum(s.cores for s in on_node),
                total.memory_bytes - sum(s.memory_bytes for s in on_node),
                total.gpus - sum(s.gpus for s in on_node),
                max(0, 1 - len(on_node)) if on_trial else None,
            )
        )
    return free


def available(free: list[schedule.NodeCapacity], types: Mapping[str, InstanceTypeRow]) -> dict[str, int]:
    """Instance type → number of sessions that could start now."""
    return {type_id: schedule.count(free, slot_of(instance_type)) for type_id, instance_type in types.items()}
