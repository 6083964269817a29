"""Which sessions start, are drained or give way: `(demand, supply, sessions, now) → plan`. Pure.

On-demand work comes before preemptible work, whose slots it takes. Within each, work is ranked by priority,
then by fair share (cores that the account, then the user, has running now), then by who was served longest
ago, then by age. A session ends for other work in three ways: an idle one is drained; one that had its
minimum tenure is drained at its task's end, if others are owed its slot; a preemptible one is preempted for
on-demand work. Described in docs/decisions/0013-scheduling.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

UNLIMITED = 1 << 30
"""Sessions on a machine."""


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
    """Its live sessions, those that are leaving too: each holds a machine."""
    starting: int = 0
    """Of these, how many are about to be given their first task."""
    user: str = ""
    served_ms: int = 0
    """When its newest session was written; 0: never."""
    avoid: frozenset[str] = frozenset()
    """Machines that it does not use now."""

    @property
    def wanted(self) -> int:
        """How many more sessions it could use."""
        most = self.ready - self.starting
        return most if self.max_sessions is None else min(most, self.max_sessions - self.sessions)


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """What an engine could still give, after all sessions that are written down."""

    node: str
    zone: str
    cores: int
    memory_bytes: int
    gpus: int = 0
    most: int | None = None
    """More sessions than that may not start there, whatever is free; None: no limit."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds a slot. `idle_since_ms`: since when it has had nothing to do."""

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
    """Its slot becomes free by itself: it drains, stops or gives way."""
    silent: bool = False
    """It does not answer, so nothing can be asked of it."""


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
    """Jobs that want a machine and get none now."""
    next_ms: int | None = None
    """When time alone would change the plan."""


class _Room:
    """What is free on each machine, counted down."""

    def __init__(self, machines: Sequence[NodeCapacity]) -> None:
        self.zone = {m.node: m.zone for m in machines}
        self.free = {m.node: [m.cores, m.memory_bytes, m.gpus] for m in machines}
        self.most = {m.node: UNLIMITED if m.most is None else m.most for m in machines}

    def fits(self, node: str, d: Demand) -> bool:
        slot = d.slot
        cores, memory, gpus = self.free[node]
        enough = cores >= slot.cores and memory >= slot.memory_bytes and gpus >= slot.gpus
        return enough and self.most[node] > 0 and node not in d.avoid

    def change(self, node: str, slot: Slot, sign: int) -> None:
        if node in self.free:
            self.most[node] += sign
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

    def __post_init__(self) -> None:
        self.ready = {d.job for d in self.demand if d.ready > 0}
        for s in self.sessions:
            self.add(s.account, s.user, s.job, s.slot.cores)

    def add(self, account: str, user: str, job: str, cores: int) -> None:
        for key in ((account,), (account, user), (account, user, job)):
            self.share[key] += cores

    def rank(self, d: Demand) -> tuple[object, ...]:
        shares = (self.share[(d.account,)], self.share[(d.account, d.user)])
        return (d.preemptible, -d.priority, *shares, d.served_ms, d.created_ms, d.job)

    def starts(self, room: _Room, whole: _Room) -> tuple[list[Start], list[Demand]]:
        """Sessions to start in what is free, and what found no room, most urgent first."""
        left = {d.job: d.wanted for d in self.demand}
        starts: list[Start] = []
        unmet: list[Demand] = []
        reserved: set[str] = set()
        barred: set[str] = set()
        """Machines where on-demand work would preempt at once what started there."""
        open_demand = [d for d in self.demand if left[d.job] > 0]
        while open_demand:
            d = min(open_demand, key=self.rank)
            shut = reserved | barred if d.preemptible else reserved
            node = next((n for n in room.free if n not in shut and room.fits(n, d)), None)
            if node is None:
                unmet += [d] * left[d.job]
                open_demand.remove(d)
                homes = [n for n in whole.free if n not in reserved and whole.fits(n, d)]
                if not d.preemptible:
                    barred.update(homes)
                if homes and not d.sessions and not any(s.job == d.job for s in starts):
                    # Nobody behind it may take, piece by piece, the machine that it waits for.
                    reserved.add(max(homes, key=lambda n: (room.free[n][0], n)))
                continue
            room.change(node, d.slot, -1)
            self.add(d.account, d.user, d.job, d.slot.cores)
            starts.append(Start(d.job, node, room.zone[node]))
            left[d.job] -= 1
            if not left[d.job]:
                open_demand.remove(d)
        return starts, unmet

    def relieve(self, unmet: list[Demand], room: _Room) -> None:
        """Find slots for what found no room. `room` counts what is leaving already as free."""
        for s in self.sessions:
            if s.leaving:
                room.change(s.node, s.slot, 1)
                self.add(s.account, s.user, s.job, -s.slot.cores)
        # First one for each that has none: what is leaving was sent away for them.
        seen: set[str] = set()
        first: list[Demand] = []
        more: list[Demand] = []
        for d in unmet:
            (more if d.sessions or d.job in seen else first).append(d)
            seen.add(d.job)
        for d in sorted([*first, *more], key=lambda d: d.preemptible):
            if not self._claim(d, room):
                self._make_room(d, room)

    def _claim(self, d: Demand, room: _Room) -> bool:
        node = next((n for n in room.free if room.fits(n, d)), None)
        if node is not None:
            room.change(node, d.slot, -1)
            self.add(d.account, d.user, d.job, d.slot.cores)
        return node is not None

    def _make_room(self, d: Demand, room: _Room) -> None:
        best: list[Session] | None = None
        for node in room.free:
            if node in d.avoid:
                continue
            found = self._victims(d, room, node)
            if found is not None and (best is None or len(found) < len(best)):
                best = found
        for s in best or ():
            gentle = self._idle(s) or self._owed(d, s)
            (self.drain if gentle else self.preempt).append(s.session)
            room.change(s.node, s.slot, 1)
            self.add(s.account, s.user, s.job, -s.slot.cores)
        if best:
            self._claim(d, room)

    def _victims(self, d: Demand, room: _Room, node: str) -> list[Session] | None:
        """The fewest and mildest ends on a machine that make room for `d`."""
        gone = {*self.drain, *self.preempt}
        can = [
            s
            for s in self.sessions
            if s.node == node and not s.leaving and not s.silent and s.job != d.job and s.session not in gone
        ]
        taking = not d.preemptible
        can = [s for s in can if self._idle(s) or (taking and s.preemptible) or self._owed(d, s)]
        # An idle one first; for on-demand work at once, so preemption goes before waiting for a task's end.
        can.sort(key=lambda s: (not self._idle(s), s.priority, -s.started_ms, s.session))
        found: list[Session] = []
        cores, memory, gpus = room.free[node]
        for s in can:
            if cores >= d.slot.cores and memory >= d.slot.memory_bytes and gpus >= d.slot.gpus:
                break
            found.append(s)
            cores, memory, gpus = (
                cores + s.slot.cores, memory + s.slot.memory_bytes, gpus + s.slot.gpus,
            )  # fmt: skip
        fits = cores >= d.slot.cores and memory >= d.slot.memory_bytes and gpus >= d.slot.gpus
        return found if fits and room.most[node] + len(found) > 0 else None

    def _idle(self, s: Session) -> bool:
        return s.idle_since_ms is not None and s.job not in self.ready

    def _owed(self, d: Demand, s: Session) -> bool:
        """Whether the session's slot is owed to `d`, and the session had its minimum tenure. A preemptible
        session in the way of on-demand work is preempted instead: it does not get to end its task."""
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
        gone = {*self.drain, *self.preempt}
        for s in self.sessions:
            if not self._idle(s) or s.leaving or s.session in gone:
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
    """What to do now. `supply`: what is free on each machine; `totals`: what each has when empty."""
    planner = _Planner(demand, sessions, now_ms, idle_ms, tenure_ms)
    room = _Room(supply)
    starts, unmet = planner.starts(room, _Room(supply if totals is None else totals))
    planner.relieve(unmet, room)
    planner.end_idle()
    return Plan(
        tuple(starts),
        tuple(planner.drain),
        tuple(planner.preempt),
        tuple(dict.fromkeys(d.job for d in unmet)),
        min(planner.deadlines, default=None),
    )


def count(machines: Sequence[NodeCapacity], slot: Slot) -> int:
    """How many such slots fit on the machines."""
    return sum(
        max(
            0,
            min(
                UNLIMITED if m.most is None else m.most,
                m.cores // max(1, slot.cores),
                m.memory_bytes // max(1, slot.memory_bytes),
                m.gpus // slot.gpus if slot.gpus else m.cores,
            ),
        )
        for m in machines
    )
