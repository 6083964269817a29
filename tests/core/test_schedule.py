"""Which sessions start, which are drained, and which give way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from framefarm.core.schedule import Demand, NodeCapacity, Plan, Session, Slot, count, plan

ONE, TWO = Slot(1, 100), Slot(2, 200)
TENURE, IDLE = 300_000, 10_000


def job(name: str, *, ready: int = 5, priority: int = 50, created: int = 0, **more: Any) -> Demand:
    said: dict[str, Any] = {"account": "acc", "instance_type": "local-1", "preemptible": True, "slot": ONE}
    return Demand(job=name, priority=priority, created_ms=created, ready=ready, **said | more)


def held(name: str, job: str, **more: Any) -> Session:
    said: dict[str, Any] = {
        "account": "acc", "user": "", "priority": 50, "preemptible": True, "node": "m", "slot": ONE,
        "started_ms": 0,
    }  # fmt: skip
    return Session(session=name, job=job, **said | more)


def look(demand: list[Demand], sessions: list[Session], cores: int = 2, now: int = 0) -> Plan:
    """A plan for one machine of that many cores."""
    free = cores - sum(s.slot.cores for s in sessions)
    return plan(
        demand,
        [NodeCapacity("m", "", free, 10_000)],
        sessions,
        now_ms=now,
        idle_ms=IDLE,
        tenure_ms=TENURE,
        totals=[NodeCapacity("m", "", cores, 10_000)],
    )


def starts(demand: list[Demand], cores: int = 2, sessions: list[Session] | None = None) -> list[str]:
    return [s.job for s in look(demand, sessions or [], cores).start]


def test_priority_comes_first_then_age() -> None:
    assert starts([job("old"), job("urgent", priority=90, created=5)]) == ["urgent", "urgent"]
    assert starts([job("new", created=9), job("old", created=1)]) == ["old", "old"]


def test_accounts_share_then_their_users() -> None:
    big, small = job("big", account="a"), job("small", account="b", created=9)
    assert starts([big, small]) == ["big", "small"]
    mine = [job("x", user="ada"), job("y", user="ada", created=1), job("z", user="bob", created=9)]
    assert starts(mine) == ["x", "z"]


def test_no_more_sessions_than_tasks_or_than_asked_for() -> None:
    assert starts([job("a", ready=1), job("b", created=1)]) == ["a", "b"]
    assert starts([job("a", max_sessions=1)]) == ["a"]
    assert starts([job("a", ready=2, starting=2, sessions=2)]) == []


def test_an_idle_session_goes_at_once_when_others_wait_and_else_later() -> None:
    idle = [held("s", "done", idle_since_ms=0)]
    assert look([job("a")], idle, cores=1, now=1).drain == ("s",)
    assert look([], idle, cores=1, now=1).drain == ()
    assert look([], idle, cores=1, now=1).next_ms == IDLE
    assert look([], idle, cores=1, now=IDLE).drain == ("s",)


def test_on_demand_work_takes_the_slots_of_preemptible_sessions_youngest_first() -> None:
    running = [held("old", "spot"), held("young", "spot", started_ms=5)]
    urgent = job("od", preemptible=False, ready=1, priority=1)
    found = look([urgent], running, now=6)
    assert (found.preempt, found.drain, found.start) == (("young",), (), ())
    assert look([replace(urgent, preemptible=True, priority=99)], running, now=6).preempt == ()
    assert look([urgent], [replace(s, preemptible=False) for s in running], now=6).preempt == ()
    both = look([job("od", preemptible=False, ready=1, slot=TWO)], running, now=6)
    assert set(both.preempt) == {"old", "young"}


def test_a_slot_that_is_leaving_is_waited_for_and_nobody_else_is_sent_away() -> None:
    running = [held("a", "spot", leaving=True), held("b", "spot")]
    found = look([job("od", preemptible=False, ready=1)], running)
    assert found.preempt == ()
    assert found.unmet == ("od",)


def test_a_silent_session_is_asked_nothing() -> None:
    running = [held("a", "spot", silent=True)]
    assert look([job("od", preemptible=False, ready=1)], running, cores=1).preempt == ()


def test_a_small_job_gets_a_slot_of_a_big_one_after_its_tenure() -> None:
    running = [held("a", "big"), held("b", "big", started_ms=1)]
    demand = [job("big", sessions=2, served_ms=1), job("small", ready=1, created=9)]
    early = look(demand, running, now=TENURE - 1)
    assert (early.drain, early.next_ms) == ((), TENURE)
    assert len(look(demand, running, now=TENURE + 1).drain) == 1
    # It takes the slot that became free, although the big one is older.
    assert starts(demand, sessions=[running[0]]) == ["small"]


def test_a_job_is_not_sent_away_for_one_of_lower_priority() -> None:
    running = [held("a", "big", priority=60)]
    assert look([job("low", priority=10)], running, cores=1, now=TENURE * 2).drain == ()
    assert look([job("high", priority=90)], running, cores=1, now=TENURE * 2).drain == ("a",)


def test_small_work_does_not_take_the_machine_of_a_big_one_piece_by_piece() -> None:
    running = [held("a", "small")]
    demand = [job("wide", slot=TWO), job("small", sessions=1, created=1, served_ms=1)]
    assert look(demand, running).start == ()
    huge = replace(demand[0], slot=Slot(64, 1))
    assert [s.job for s in look([huge, demand[1]], running).start] == ["small"]


def test_how_many_fit() -> None:
    assert count([NodeCapacity("m", "", 5, 250), NodeCapacity("n", "", 1, 1000)], ONE) == 3
    assert count([NodeCapacity("m", "", 5, 250)], Slot(1, 1, gpus=1)) == 0


JOBS = st.lists(
    st.builds(
        job,
        name=st.sampled_from([f"j{i}" for i in range(6)]),
        ready=st.integers(0, 6),
        priority=st.sampled_from([10, 50]),
        created=st.integers(0, 9),
        account=st.sampled_from(["a", "b"]),
        user=st.sampled_from(["u", "v"]),
        preemptible=st.booleans(),
        slot=st.sampled_from([ONE, TWO]),
        max_sessions=st.none() | st.integers(1, 3),
    ),
    max_size=6,
    unique_by=lambda d: d.job,
)


class World:
    """Plays plans out: what starts runs, what is drained or preempted is gone by the next step."""

    def __init__(self, jobs: list[Demand], cores: int) -> None:
        self.jobs = {d.job: d for d in jobs}
        self.cores, self.now, self.number = cores, 1, 0
        self.sessions: dict[str, Session] = {}
        self.served: dict[str, int] = {}

    def demand(self) -> list[Demand]:
        return [
            replace(
                d,
                sessions=sum(s.job == d.job for s in self.sessions.values()),
                served_ms=self.served.get(d.job, 0),
                ready=max(0, d.ready - sum(s.job == d.job for s in self.sessions.values())),
            )
            for d in self.jobs.values()
        ]

    def look(self) -> Plan:
        return look([d for d in self.demand() if d.ready], list(self.sessions.values()), self.cores, self.now)

    def apply(self, found: Plan) -> None:
        for start in found.start:
            d, self.number = self.jobs[start.job], self.number + 1
            self.served[d.job] = self.now
            self.sessions[f"s{self.number:03d}"] = held(
                f"s{self.number:03d}", d.job, account=d.account, user=d.user, priority=d.priority,
                preemptible=d.preemptible, slot=d.slot, started_ms=self.now,
            )  # fmt: skip
        for name in (*found.drain, *found.preempt):
            self.sessions[name] = replace(self.sessions[name], leaving=True)
        assert sum(s.slot.cores for s in self.sessions.values()) <= self.cores

    def step(self) -> None:
        self.sessions = {n: s for n, s in self.sessions.items() if not s.leaving}
        self.now += TENURE


TAKEN_BY_ANOTHER = [
    job("j0", account="b", user="u", ready=2, created=0),
    job("j1", account="b", user="u", ready=1, created=1),
    job("j2", account="a", user="v", ready=1, created=2),
    job("j3", account="a", user="v", ready=1, created=3, priority=10, preemptible=False),
]
"""A session is drained for j1; j2, ranked first until then, must not claim its slot and drain another."""


@example(TAKEN_BY_ANOTHER, 3)
@given(JOBS, st.integers(1, 5))
def test_no_slot_is_given_twice_and_a_second_look_changes_nothing(jobs: list[Demand], cores: int) -> None:
    world = World([replace(d, slot=ONE) for d in jobs], cores)
    for _ in range(4):
        world.apply(world.look())
        again = world.look()
        assert (again.start, again.drain, again.preempt) == ((), (), ())
        for d in world.jobs.values():
            running = sum(s.job == d.job and not s.leaving for s in world.sessions.values())
            assert running <= min(d.ready, d.max_sessions or d.ready)
        world.step()


@given(JOBS, st.integers(1, 5))
def test_with_slots_of_several_sizes_looking_again_and_again_comes_to_rest(
    jobs: list[Demand], cores: int
) -> None:
    world = World(jobs, cores)
    for _ in range(4):
        for _ in range(2 * cores + 1):
            found = world.look()
            world.apply(found)
        assert (found.start, found.drain, found.preempt) == ((), (), ())
        world.step()


@given(JOBS, st.integers(1, 5))
def test_on_demand_work_is_never_preempted_and_preemptible_only_for_on_demand(
    jobs: list[Demand], cores: int
) -> None:
    world = World(jobs, cores)
    for _ in range(4):
        found = world.look()
        assert all(world.sessions[s].preemptible for s in found.preempt)
        assert not found.preempt or any(not world.jobs[j].preemptible for j in found.unmet)
        world.apply(found)
        world.step()


@given(JOBS, st.integers(2, 5))
def test_nobody_of_equal_rank_starves_though_no_task_ever_ends(jobs: list[Demand], cores: int) -> None:
    equal = [replace(d, priority=50, preemptible=True, slot=ONE) for d in jobs]
    world = World(equal, cores)
    for _ in range(4 + 4 * len(equal)):
        world.apply(world.look())
        world.step()
    assert {d.job for d in equal if d.ready} <= set(world.served)


@given(JOBS, st.integers(2, 5))
def test_a_job_of_the_highest_priority_waits_only_for_its_own_kind(jobs: list[Demand], cores: int) -> None:
    same = [replace(d, preemptible=False, slot=ONE) for d in jobs]
    found = World(same, cores).look()
    if found.unmet:
        lowest = min((d.priority for d in same for s in found.start if s.job == d.job), default=99)
        assert all(d.priority <= lowest for d in same if d.job in found.unmet)
