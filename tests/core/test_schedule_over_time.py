"""Plans played out over time: they settle, and every job of equal rank is served."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from test_schedule import ONE, TENURE, TWO, held, job, planned

from framefarm.core.schedule import Demand, Plan, Session

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

    def planned(self) -> Plan:
        return planned(
            [d for d in self.demand() if d.ready], list(self.sessions.values()), self.cores, self.now
        )

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


def _one_user(accounts: str, ready: list[int], priorities: list[int], on_demand: int) -> list[Demand]:
    return [
        job(f"j{i}", account=accounts[i], ready=ready[i], created=i, priority=priorities[i],
            preemptible=i != on_demand)
        for i in range(4)
    ]  # fmt: skip


@example(_one_user("bbaa", [2, 1, 1, 1], [50, 50, 50, 10], on_demand=3), 3)
@example(_one_user("abba", [1, 2, 1, 1], [10, 50, 50, 50], on_demand=0), 3)
@given(JOBS, st.integers(1, 5))
def test_no_slot_is_given_twice_and_a_second_plan_changes_nothing(jobs: list[Demand], cores: int) -> None:
    world = World([replace(d, slot=ONE) for d in jobs], cores)
    for _ in range(4):
        world.apply(world.planned())
        again = world.planned()
        assert (again.start, again.drain, again.preempt) == ((), (), ())
        for d in world.jobs.values():
            running = sum(s.job == d.job and not s.leaving for s in world.sessions.values())
            assert running <= min(d.ready, d.max_sessions or d.ready)
        world.step()


@given(JOBS, st.integers(1, 5))
def test_with_slots_of_several_sizes_repeated_plans_come_to_rest(jobs: list[Demand], cores: int) -> None:
    world = World(jobs, cores)
    for _ in range(4):
        for _ in range(2 * cores + 1):
            found = world.planned()
            world.apply(found)
        assert (found.start, found.drain, found.preempt) == ((), (), ())
        world.step()


@given(JOBS, st.integers(1, 5))
def test_on_demand_work_is_never_preempted_and_preemptible_only_for_on_demand(
    jobs: list[Demand], cores: int
) -> None:
    world = World(jobs, cores)
    for _ in range(4):
        found = world.planned()
        assert all(world.sessions[s].preemptible for s in found.preempt)
        assert not found.preempt or any(not world.jobs[j].preemptible for j in found.unmet)
        world.apply(found)
        world.step()


@given(JOBS, st.integers(2, 5))
def test_every_job_of_equal_rank_is_served_though_no_task_ever_ends(jobs: list[Demand], cores: int) -> None:
    equal = [replace(d, priority=50, preemptible=True, slot=ONE) for d in jobs]
    world = World(equal, cores)
    for _ in range(4 + 4 * len(equal)):
        world.apply(world.planned())
        world.step()
    assert {d.job for d in equal if d.ready} <= set(world.served)


@given(JOBS, st.integers(2, 5))
def test_a_job_of_the_highest_priority_waits_only_for_its_equals(jobs: list[Demand], cores: int) -> None:
    same = [replace(d, preemptible=False, slot=ONE) for d in jobs]
    found = World(same, cores).planned()
    if found.unmet:
        lowest = min((d.priority for d in same for s in found.start if s.job == d.job), default=99)
        assert all(d.priority <= lowest for d in same if d.job in found.unmet)
