"""Which sessions to start and which to drain: `(demand, supply, now) → plan`. Pure.

Today: priority, then age; one slot of a machine's cores and memory per session; an idle session drains after
a while, at once if other work waits for its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """What one session of an instance type takes."""

    cores: int
    memory_bytes: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """A job that could use machines."""

    job: str
    account: str
    priority: int
    created_ms: int
    instance_type: str
    preemptible: bool
    slot: Slot
    ready: int
    """Tasks that could be handed out now, beyond what its sessions hold."""
    max_sessions: int | None = None
    sessions: int = 0
    """Its live sessions that take tasks."""
    starting: int = 0
    """Of these, how many have not been given a task yet."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine could still give, after all sessions that are written down."""

    node: str
    zone: str
    cores: int
    memory_bytes: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """A session that has nothing to do."""

    session: str
    job: str
    since_ms: int
    node: str
    slot: Slot


@dataclass(frozen=True, slots=True)
class Start:
    job: str
    node: str
    zone: str


@dataclass(frozen=True, slots=True)
class Plan:
    start: tuple[Start, ...] = ()
    drain: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    """Jobs that want a machine and get none now."""
    next_ms: int | None = None
    """When time alone would change the plan."""


def plan(
    demand: Sequence[Demand], supply: Sequence[Machine], idle: Sequence[Idle], *, now_ms: int, idle_ms: int
) -> Plan:
    """Start as many sessions as there are ready tasks and room, the most urgent job first, one session a
    job in turn among equals of priority and age."""
    free = {m.node: [m.cores, m.memory_bytes, m.gpus] for m in supply}
    zone = {m.node: m.zone for m in supply}
    starts: list[Start] = []
    unmet: list[str] = []
    for wanting in sorted(demand, key=lambda d: (-d.priority, d.created_ms, d.job)):
        wanted = wanting.ready - wanting.starting
        if wanting.max_sessions is not None:
            wanted = min(wanted, wanting.max_sessions - wanting.sessions)
        for _ in range(wanted):
            node = _fit(free, wanting.slot)
            if node is None:
                unmet.append(wanting.job)
                break
            free[node][0] -= wanting.slot.cores
            free[node][1] -= wanting.slot.memory_bytes
            free[node][2] -= wanting.slot.gpus
            starts.append(Start(wanting.job, node, zone[node]))
    blocked = set(unmet)
    ready_jobs = {d.job for d in demand if d.ready > 0}
    drain: list[str] = []
    deadlines: list[int] = []
    for session in idle:
        if session.job in ready_jobs:
            continue
        if blocked - {session.job} or now_ms - session.since_ms >= idle_ms:
            drain.append(session.session)
        else:
            deadlines.append(session.since_ms + idle_ms)
    return Plan(tuple(starts), tuple(drain), tuple(unmet), min(deadlines, default=None))


def _fit(free: dict[str, list[int]], slot: Slot) -> str | None:
    for node, (cores, memory, gpus) in free.items():
        if cores >= slot.cores and memory >= slot.memory_bytes and gpus >= slot.gpus:
            return node
    return None


def fits_ever(totals: Sequence[Machine], slot: Slot) -> bool:
    """Whether any machine, empty, could hold the slot."""
    return any(
        m.cores >= slot.cores and m.memory_bytes >= slot.memory_bytes and m.gpus >= slot.gpus for m in totals
    )
