"""Which sessions start, are drained or preempted: `(demand, capacity, sessions, now) → plan`. Pure.

On-demand work comes before preemptible work, whose slots it takes. Within each, work is ranked by priority,
then by fair share (cores that the account, then the user, has running now), then by the longest time since a
session of the job started, then by age. A session ends for other work in three ways: an idle one is drained;
one that had its minimum tenure is drained at its task's end, if fair share gives its slot to another job; a
preemptible one is preempted for on-demand work. Described in docs/decisions/0013-scheduling.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

UNLIMITED = 1 << 30
"""Stands for no limit on the sessions of a node."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Resources that one session of an instance type takes on a node."""

    cores: int
    memory_bytes: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """A job that could use more sessions."""

    job: str
    account: str
    priority: int
    created_ms: int
    instance_type: str
    preemptible: bool
    slot: Slot
    ready: int
    """Tasks that could be assigned now, beyond those that its sessions hold."""
    max_sessions: int | None = None
    sessions: int = 0
    """Its live sessions, leaving ones included: each holds a slot."""
    starting: int = 0
    """How many of them have not been assigned their first task yet."""
    user: str = ""
    served_ms: int = 0
    """When its newest session was created; 0: never."""
    avoid: frozenset[str] = frozenset()
    """Nodes that it does not use now (`node_health.nodes_to_avoid`)."""

    @property
    def wanted(self) -> int:
        """Number of sessions that the job could use beyond those it has."""
        most = self.ready - self.starting
        return most if self.max_sessions is None else min(most, self.max_sessions - self.sessions)


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """Resources of one node: free ones after all recorded sessions, or those of the empty node."""

    node: str
    zone: str
    cores: int
    memory_bytes: int
    gpus: int = 0
    max_starts: int | None = None
    """Most sessions that may start there, whatever is free; None: no limit."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds a slot. `idle_since_ms`: start of its idle time; None while it has tasks."""

    session: str
    job: str
    account: str
    user: str
    priority: int
    preemptible: bool
    node: str
    slot: Slot
    started_ms: int
    idle_since_ms: int | None = None
    leaving: bool = False
    """It drains, stops or is preempted already, so that its slot becomes free."""
    silent: bool = False
    """It does not answer, so that it cannot be drained or preempted."""


@dataclass(frozen=True, slots=True)
class Start:
    job: str
    node: str
    zone: str


@dataclass(frozen=True, slots=True)
class Plan:
    start: tuple[Start, ...] = ()
    drain: tuple[str, ...] = ()
    preempt: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    """Jobs that could use a session and get none now."""
    next_ms: int | None = None
    """Next time at which the plan changes although nothing else does; None: never."""


class _Room:
    """Free resources of each node, counted down while planning."""

    def __init__(self, nodes: Sequence[NodeCapacity]) -> None:
        self.zone = {n.node: n.zone for n in nodes}
        self.free = {n.node: [n.cores, n.memory_bytes, n.gpus] for n in nodes}
        self.max_starts = {n.node: UNLIMITED if n.max_starts is None else n.max_starts for n in nodes}

    def fits(self, node: str, d: Demand) -> bool:
        slot = d.slot
        cores, memory, gpus = self.free[node]
        enough = cores >= slot.cores and memory >= slot.memory_bytes and gpus >= slot.gpus
        return enough and self.max_starts[node] > 0 and node not in d.avoid

    def change(self, node: str, slot: Slot, sign: int) -> None:
        if node in self.free:
            self.max_starts[node] += sign
            for i, amount in enumerate((slot.cores, slot.memory_bytes, slot.gpus)):
                self.free[node][i] += sign * amount


@dataclass
class _Planner:
    demand: Sequence[Demand]
    sessions: Sequence[Session]
    now_ms: int
    idle_ms: int
    tenure_ms: int
    share: defaultdict[tuple[str, ...], int] = field(default_factory=lambda: defaultdict(int))
    drain: list[str] = field(default_factory=list)
    preempt: list[str] = field(default_factory=list)
    deadlines: list[int] = field(default_factory=list)
    by_node: defaultdict[str, list[Session]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.ready = {d.job for d in self.demand if d.ready > 0}
        for s in self.sessions:
            self.add(s.account, s.user, s.job, s.slot.cores)
            self.by_node[s.node].append(s)

    def add(self, account: str, user: str, job: str, cores: int) -> None:
        for key in ((account,), (account, user), (account, user, job)):
            self.share[key] += cores

    def rank(self, d: Demand) -> tuple[object, ...]:
        shares = (self.share[(d.account,)], self.share[(d.account, d.user)])
        return (d.preemptible, -d.priority, *shares, d.served_ms, d.created_ms, d.job)

    def starts(self, room: _Room, whole: _Room) -> tuple[list[Start], dict[str, int]]:
        """Sessions to start on free slots; and, most urgent job first, job → number of slots that it lacks.

        `whole`: resources of the empty nodes.
        """
        remaining = {d.job: d.wanted for d in self.demand}
        starts: list[Start] = []
        unmet: dict[str, int] = {}
        reserved: set[str] = set()
        barred: set[str] = set()
        """Nodes where on-demand work would preempt at once a session that started there."""
        open_demand = [d for d in self.demand if remaining[d.job] > 0]
        while open_demand:
            d = min(open_demand, key=self.rank)
            closed = reserved | barred if d.preemptible else reserved
            node = next((n for n in room.free if n not in closed and room.fits(n, d)), None)
            if node is None:
                unmet[d.job] = remaining[d.job]
                open_demand.remove(d)
                big_enough = [n for n in whole.free if n not in reserved and whole.fits(n, d)]
                if not d.preemptible:
                    barred.update(big_enough)
                if big_enough and not d.sessions and not any(s.job == d.job for s in starts):
                    # Keep the node for it: smaller work ranked below must not take its cores one by one.
                    reserved.add(max(big_enough, key=lambda n: (room.free[n][0], n)))
                continue
            room.change(node, d.slot, -1)
            self.add(d.account, d.user, d.job, d.slot.cores)
            starts.append(Start(d.job, node, room.zone[node]))
            remaining[d.job] -= 1
            if not remaining[d.job]:
                open_demand.remove(d)
        return starts, unmet

    def relieve(self, unmet: dict[str, int], room: _Room) -> None:
        """End sessions for demand without a free slot. Slots of leaving sessions count as free in `room`."""
        for s in self.sessions:
            if s.leaving:
                room.change(s.node, s.slot, 1)
                self.add(s.account, s.user, s.job, -s.slot.cores)
        # First one slot for each job without a session: the leaving sessions were ended for those jobs.
        # Ranked anew after each slot, without sessions that leave: in the order in which the jobs will start.
        demand = {d.job: d for d in self.demand if d.job in unmet}
        slots: Counter[tuple[bool, str]] = Counter()
        for job, lacking in unmet.items():
            first = 0 if demand[job].sessions else 1
            slots.update({(False, job): first, (True, job): lacking - first})
        slots = +slots

        def order(key: tuple[bool, str]) -> tuple[object, ...]:
            return (demand[key[1]].preemptible, key[0], self.rank(demand[key[1]]))

        blocked: set[tuple[bool, str]] = set()
        while self._relieve_next(sorted(slots.keys() - blocked, key=order), demand, slots, blocked, room):
            pass

    def _relieve_next(
        self,
        ranked: list[tuple[bool, str]],
        demand: dict[str, Demand],
        slots: Counter[tuple[bool, str]],
        blocked: set[tuple[bool, str]],
        room: _Room,
    ) -> bool:
        """Claim a free slot for the first job that can, or end sessions for it. False if there is none."""
        for key in ranked:
            d = demand[key[1]]
            if self._claim(d, room):
                slots[key] -= 1
                if not slots[key]:
                    del slots[key]
                return True
            if self._make_room(d, room):
                blocked.clear()  # the ended sessions count no more: another job may rank first now
                return True
            blocked.add(key)
        return False

    def _claim(self, d: Demand, room: _Room) -> bool:
        node = next((n for n in room.free if room.fits(n, d)), None)
        if node is not None:
            room.change(node, d.slot, -1)
            self.add(d.account, d.user, d.job, d.slot.cores)
        return node is not None

    def _make_room(self, d: Demand, room: _Room) -> bool:
        """End sessions to free one slot for `d`. False if no sessions may be ended for it."""
        best: list[Session] | None = None
        for node in room.free:
            if node in d.avoid:
                continue
            victims = self._victims(d, room, node)
            if victims is not None and (best is None or len(victims) < len(best)):
                best = victims
        for s in best or ():
            gentle = self._idle(s) or self._owed(d, s)
            (self.drain if gentle else self.preempt).append(s.session)
            room.change(s.node, s.slot, 1)
            self.add(s.account, s.user, s.job, -s.slot.cores)
        return bool(best)

    def _victims(self, d: Demand, room: _Room, node: str) -> list[Session] | None:
        """Sessions of a node to end for `d`, as few and as gently as possible; None if that frees too
        little."""
        ending = {*self.drain, *self.preempt}
        candidates = [
            s
            for s in self.by_node[node]
            if not s.leaving and not s.silent and s.job != d.job and s.session not in ending
        ]
        taking = not d.preemptible
        candidates = [
            s for s in candidates if self._idle(s) or (taking and s.preemptible) or self._owed(d, s)
        ]
        # Idle sessions first. On-demand work preempts, which is faster than to drain at a task's end.
        candidates.sort(key=lambda s: (not self._idle(s), s.priority, -s.started_ms, s.session))
        victims: list[Session] = []
        cores, memory, gpus = room.free[node]
        for s in candidates:
            if cores >= d.slot.cores and memory >= d.slot.memory_bytes and gpus >= d.slot.gpus:
                break
            victims.append(s)
            cores, memory, gpus = (
                cores + s.slot.cores, memory + s.slot.memory_bytes, gpus + s.slot.gpus,
            )  # fmt: skip
        fits = cores >= d.slot.cores and memory >= d.slot.memory_bytes and gpus >= d.slot.gpus
        return victims if fits and room.max_starts[node] + len(victims) > 0 else None

    def _idle(self, s: Session) -> bool:
        return s.idle_since_ms is not None and s.job not in self.ready

    def _owed(self, d: Demand, s: Session) -> bool:
        """Whether fair share gives the session's slot to `d` and the session had its minimum tenure.

        False for a preemptible session and on-demand work: there the session is preempted instead.
        """
        if not d.preemptible and s.preemptible:
            return False
        if not self._fairer(d, s):
            return False
        due = s.started_ms + self.tenure_ms
        if due > self.now_ms:
            self.deadlines.append(due)
        return due <= self.now_ms

    def _fairer(self, d: Demand, s: Session) -> bool:
        if d.preemptible and not s.preemptible:
            return False
        if d.priority != s.priority:
            return d.priority > s.priority
        mine: tuple[str, ...] = (d.account,)
        theirs: tuple[str, ...] = (s.account,)
        if mine == theirs:
            mine, theirs = (d.account, d.user), (s.account, s.user)
        if mine == theirs:
            return self.share[(d.account, d.user, d.job)] == 0
        has, have = self.share[mine], self.share[theirs]
        return has == 0 or have - s.slot.cores >= has + d.slot.cores

    def end_idle(self) -> None:
        ending = {*self.drain, *self.preempt}
        for s in self.sessions:
            if not self._idle(s) or s.leaving or s.session in ending:
                continue
            assert s.idle_since_ms is not None
            if self.now_ms - s.idle_since_ms >= self.idle_ms:
                self.drain.append(s.session)
            else:
                self.deadlines.append(s.idle_since_ms + self.idle_ms)


def plan(
    demand: Sequence[Demand],
    supply: Sequence[NodeCapacity],
    sessions: Sequence[Session],
    *,
    now_ms: int,
    idle_ms: int,
    tenure_ms: int = 300_000,
    totals: Sequence[NodeCapacity] | None = None,
) -> Plan:
    """Sessions to start, drain and preempt now. Times in milliseconds.

    `supply`: free resources of each node; `totals`: those of the empty nodes. `idle_ms`: an idle session is
    drained after this time. `tenure_ms`: minimum time of a session before fair share ends it.
    """
    planner = _Planner(demand, sessions, now_ms, idle_ms, tenure_ms)
    room = _Room(supply)
    starts, unmet = planner.starts(room, _Room(supply if totals is None else totals))
    planner.relieve(unmet, room)
    planner.end_idle()
    return Plan(
        tuple(starts),
        tuple(planner.drain),
        tuple(planner.preempt),
        tuple(unmet),
        min(planner.deadlines, default=None),
    )


def count(nodes: Sequence[NodeCapacity], slot: Slot) -> int:
    """Number of such slots that fit on the nodes."""
    return sum(
        max(
            0,
            min(
                UNLIMITED if n.max_starts is None else n.max_starts,
                n.cores // max(1, slot.cores),
                n.memory_bytes // max(1, slot.memory_bytes),
                n.gpus // slot.gpus if slot.gpus else n.cores,
            ),
        )
        for n in nodes
    )
