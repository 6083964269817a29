"""Reasons why a job has no session yet, in words for its `waiting_for`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framefarm.core import schedule
from framefarm.core.node_health import NodeState
from framefarm.server.dispatch.demand import LiveSession
from framefarm.server.engines.base import Capacity
from framefarm.server.rows import NodeRow
from framefarm.server.timestamps import iso


def waiting(
    live: Sequence[LiveSession],
    free: list[schedule.NodeCapacity],
    totals: list[schedule.NodeCapacity],
    unmet: list[schedule.Demand],
    closed: list[tuple[schedule.NodeCapacity, str]],
    avoided: dict[str, dict[str, tuple[int, str]]],
) -> dict[str, str]:
    """Job → what it waits for, in words. Jobs of other accounts are `other work`.

    `totals`: nodes that may have sessions. `closed`: nodes that may not, or only one, each with the reason.
    """
    words = {}
    for job in unmet:
        if job.sessions:
            continue  # it has sessions, and could use more
        wanted, number = f"a {job.instance_type} machine", schedule.count(totals, job.slot)
        reasons = [reason for node, reason in closed if schedule.count([node], job.slot)]
        reasons += [
            f"its last session on machine {node} ended badly ({what_happened}), tried again at {iso(until)}"
            for node, (until, what_happened) in avoided.get(job.job, {}).items()
        ]
        if not number and reasons:
            words[job.job] = f"{wanted}: {'; '.join(reasons[:3])}"
            continue
        if not number:
            words[job.job] = f"{wanted}: no machine of this farm is big enough"
            continue
        names = sorted({f"“{s.title}”" for s in live if s.account_id == job.account})
        if any(s.account_id != job.account for s in live):
            names.append("other work")
        taken = number - schedule.count(free, job.slot)
        by = f" by {', '.join(names[:3])}" if names else ""
        more = f"; {'; '.join(reasons[:3])}" if reasons else ""
        words[job.job] = f"{wanted}: {taken} of {number} are taken{by}{more}"
    return words


def closed_nodes(
    capacity: list[Capacity], nodes: Mapping[str, NodeRow]
) -> list[tuple[schedule.NodeCapacity, str]]:
    """Nodes that may have no session, or only one, each with the reason in words."""
    closed = []
    for total in (c.total for c in capacity):
        row = nodes.get(total.node)
        if row is None:
            continue
        if row.leaving_ms is not None:
            closed.append((total, f"machine {total.node} is being taken away by its provider"))
        elif row.standing == NodeState.SET_ASIDE:
            until = row.until_ms
            then = "until the farm's operator returns it" if until is None else f"tried again at {iso(until)}"
            # Without the reason: it may name other accounts' jobs, or be meant for the operator.
            closed.append((total, f"machine {total.node} is set aside, {then}"))
        elif row.standing == NodeState.ON_TRIAL:
            closed.append((total, f"machine {total.node} was set aside and is on trial with one session"))
    return closed
