"""Which sessions start, which are drained, and which give way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from framefarm.core.schedule import Demand, NodeCapacity, Plan, Session, Slot, Start, count, plan

ONE, TWO = Slot(1, 100), Slot(2, 200)
TENURE, IDLE = 300_000, 10_000


def job(name: str, *, ready: int = 5, priority: int = 50, created: int = 0, **more: Any) -> Demand:
    fields: dict[str, Any] = {"account": "acc", "instance_type": "local-1", "preemptible": True, "slot": ONE}
    return Demand(job=name, priority=priority, created_ms=created, ready=ready, **fields | more)


def held(name: str, job: str, **more: Any) -> Session:
    fields: dict[str, Any] = {
        "account": "acc", "user": "", "priority": 50, "preemptible": True, "node": "m", "slot": ONE,
        "started_ms": 0,
    }  # fmt: skip
    return Session(session=name, job=job, **fields | more)


def planned(demand: list[Demand], sessions: list[Session], cores: int = 2, now: int = 0) -> Plan:
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
    return [s.job for s in planned(demand, sessions or [], cores).start]


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


def test_an_idle_session_is_drained_at_once_when_others_wait_and_else_later() -> None:
    idle = [held("s", "done", idle_since_ms=0)]
    assert planned([job("a")], idle, cores=1, now=1).drain == ("s",)
    assert planned([], idle, cores=1, now=1).drain == ()
    assert planned([], idle, cores=1, now=1).next_ms == IDLE
    assert planned([], idle, cores=1, now=IDLE).drain == ("s",)


def test_on_demand_work_takes_the_slots_of_preemptible_sessions_youngest_first() -> None:
    running = [held("old", "spot"), held("young", "spot", started_ms=5)]
    urgent = job("od", preemptible=False, ready=1, priority=1)
    found = planned([urgent], running, now=6)
    assert (found.preempt, found.drain, found.start) == (("young",), (), ())
    assert planned([replace(urgent, preemptible=True, priority=99)], running, now=6).preempt == ()
    assert planned([urgent], [replace(s, preemptible=False) for s in running], now=6).preempt == ()
    both = planned([job("od", preemptible=False, ready=1, slot=TWO)], running, now=6)
    assert set(both.preempt) == {"old", "young"}


def test_a_leaving_sessions_slot_is_waited_for_and_no_other_session_ends() -> None:
    running = [held("a", "spot", leaving=True), held("b", "spot")]
    found = planned([job("od", preemptible=False, ready=1)], running)
    assert found.preempt == ()
    assert found.unmet == ("od",)


def test_on_demand_work_does_not_wait_for_a_preemptible_task_to_end_whatever_its_priority() -> None:
    found = planned([job("od", preemptible=False, ready=1, priority=90)], [held("a", "x")], 1, TENURE * 2)
    assert (found.drain, found.preempt) == ((), ("a",))


def test_a_silent_session_is_not_preempted() -> None:
    running = [held("a", "spot", silent=True)]
    assert planned([job("od", preemptible=False, ready=1)], running, cores=1).preempt == ()


def test_a_small_job_gets_a_slot_of_a_big_one_after_its_tenure() -> None:
    running = [held("a", "big"), held("b", "big", started_ms=1)]
    demand = [job("big", sessions=2, served_ms=1), job("small", ready=1, created=9)]
    early = planned(demand, running, now=TENURE - 1)
    assert (early.drain, early.next_ms) == ((), TENURE)
    assert len(planned(demand, running, now=TENURE + 1).drain) == 1
    # It takes the slot that became free, although the big one is older.
    assert starts(demand, sessions=[running[0]]) == ["small"]


def test_a_session_is_drained_only_for_a_job_of_higher_priority() -> None:
    running = [held("a", "big", priority=60)]
    assert planned([job("low", priority=10)], running, cores=1, now=TENURE * 2).drain == ()
    assert planned([job("high", priority=90)], running, cores=1, now=TENURE * 2).drain == ("a",)


def test_small_work_does_not_take_the_machine_of_a_big_one_piece_by_piece() -> None:
    running = [held("a", "small")]
    demand = [job("wide", slot=TWO), job("small", sessions=1, created=1, served_ms=1)]
    assert planned(demand, running).start == ()
    huge = replace(demand[0], slot=Slot(64, 1))
    assert [s.job for s in planned([huge, demand[1]], running).start] == ["small"]


def test_slots_are_counted_by_the_scarcest_resource_of_each_machine() -> None:
    assert count([NodeCapacity("m", "", 5, 250), NodeCapacity("n", "", 1, 1000)], ONE) == 3
    assert count([NodeCapacity("m", "", 5, 250)], Slot(1, 1, gpus=1)) == 0
    assert count([NodeCapacity("m", "", 9, 900, gpus=5)], Slot(1, 1, gpus=2)) == 2
    assert count([NodeCapacity("m", "", 9, 900, gpus=1)], Slot(2, 100)) == 4
    assert count([NodeCapacity("m", "", 9, 900, max_starts=2)], ONE) == 2
    assert count([NodeCapacity("m", "", 9, 900, max_starts=-1), NodeCapacity("n", "", -1, 900)], ONE) == 0
    assert count([NodeCapacity("m", "", 3, 900)], Slot(0, 0)) == 3
    assert count([NodeCapacity("m", "", 9, 3)], Slot(1, 1)) == 3
    assert count([], ONE) == 0


@pytest.mark.parametrize(
    ("machine", "fits"),
    [
        (NodeCapacity("m", "z", 4, 100, 2), True),
        (NodeCapacity("m", "z", 9, 999, 9), True),
        (NodeCapacity("m", "z", 3, 999, 9), False),
        (NodeCapacity("m", "z", 9, 99, 9), False),
        (NodeCapacity("m", "z", 9, 999, 1), False),
    ],
)
def test_a_session_starts_where_cores_memory_and_gpus_are_enough(machine: NodeCapacity, fits: bool) -> None:
    demand = [job("a", slot=Slot(4, 100, 2), ready=1)]
    found = planned_on([machine], demand)
    assert found.start == ((Start("a", "m", "z"),) if fits else ())
    assert found.unmet == (() if fits else ("a",))


def planned_on(
    free: list[NodeCapacity],
    demand: list[Demand],
    sessions: list[Session] | None = None,
    *,
    now: int = 0,
    totals: list[NodeCapacity] | None = None,
) -> Plan:
    """A plan for several machines, of which `free` is what their sessions leave."""
    return plan(demand, free, sessions or [], now_ms=now, idle_ms=IDLE, totals=totals)


def nodes(found: Plan) -> list[str]:
    return [f"{s.job} on {s.node}" for s in found.start]


@pytest.mark.parametrize(
    ("machine", "slot", "count"),
    [
        (NodeCapacity("m", "", 3, 9999, 9), ONE, 3),
        (NodeCapacity("m", "", 9, 350, 9), ONE, 3),
        (NodeCapacity("m", "", 9, 9999, 5), Slot(1, 100, 2), 2),
        (NodeCapacity("m", "", 9, 9999, max_starts=4), ONE, 4),
        (NodeCapacity("m", "", 9, 9999, max_starts=0), ONE, 0),
        (NodeCapacity("m", "", 9, 9999, max_starts=-1), ONE, 0),
    ],
)
def test_each_start_takes_its_slot_from_what_is_free(machine: NodeCapacity, slot: Slot, count: int) -> None:
    found = planned_on([machine], [job("a", ready=7, slot=slot)])
    assert len(found.start) == count
    assert found.unmet == ("a",)


def test_sessions_start_on_the_first_machine_with_room_that_the_job_does_not_avoid() -> None:
    free = [NodeCapacity("m", "", 1, 900), NodeCapacity("n", "", 2, 900)]
    assert nodes(planned_on(free, [job("a", ready=2)])) == ["a on m", "a on n"]
    assert nodes(planned_on(free, [job("a", avoid=frozenset({"m"}))])) == ["a on n", "a on n"]
    assert planned_on(free, [job("a", avoid=frozenset({"m", "n"}))]).unmet == ("a",)


def test_the_number_of_sessions_is_limited_by_tasks_and_by_max_sessions() -> None:
    assert job("a", ready=5, starting=2).wanted == 3
    assert job("a", ready=5, starting=2, max_sessions=9, sessions=4).wanted == 3
    assert job("a", ready=5, starting=1, max_sessions=6, sessions=4).wanted == 2
    assert starts([job("a", ready=3)], cores=9) == ["a"] * 3
    assert starts([job("a", ready=1, starting=3)]) == []
    assert starts([job("a", max_sessions=1, sessions=2)]) == []


def test_on_demand_work_starts_first_whatever_the_priorities() -> None:
    assert starts([job("spot", priority=99), job("od", priority=1, preemptible=False)], cores=1) == ["od"]


def test_equal_jobs_start_by_last_service_then_age_then_name() -> None:
    assert starts([job("a", served_ms=5), job("b", created=9, served_ms=2)], cores=1) == ["b"]
    assert starts([job("a", served_ms=5, created=2), job("b", created=1, served_ms=5)], cores=1) == ["b"]
    assert starts([job("b"), job("a")], cores=1) == ["a"]
    assert starts([job("b"), job("a", served_ms=0)], cores=1) == ["a"]
    assert starts([job("a", served_ms=0), job("b")], cores=1) == ["a"]


def test_fair_share_counts_running_cores_of_the_account_and_of_its_users() -> None:
    running = [
        held("s1", "x", account="a", slot=TWO),
        held("s2", "y", account="b"),
    ]
    demand = [job("x", account="a", sessions=1), job("y", account="b", created=9, sessions=1)]
    assert starts(demand, 4, running) == ["y"]
    assert starts(demand, 5, running) == ["y", "x"]  # two cores each now: the older job
    users = [replace(s, account="c", user=s.account) for s in running]
    assert starts([replace(d, account="c", user=d.account) for d in demand], 4, users) == ["y"]
    # The account counts before the user: a new user of the busier account waits.
    other_user = job("z", account="a", user="new", served_ms=0)
    assert starts([replace(demand[1], served_ms=9), other_user], 4, running) == ["y"]


def test_nothing_preemptible_starts_where_waiting_on_demand_work_could_run() -> None:
    running = [held("a", "spot", leaving=True)]
    wide = job("wide", preemptible=False, slot=TWO, sessions=1)
    assert planned([wide, job("spot")], running).start == ()
    small = job("small", preemptible=False, created=1, ready=1)
    assert [s.job for s in planned([wide, small, job("spot")], running).start] == ["small"]
    elsewhere = planned_on(
        [NodeCapacity("m", "", 1, 900), NodeCapacity("n", "", 1, 900)],
        [wide, job("spot", ready=9)],
        totals=[NodeCapacity("m", "", 2, 900), NodeCapacity("n", "", 1, 900)],
    )
    assert nodes(elsewhere) == ["spot on n"]


def test_a_waiting_job_without_a_session_reserves_the_machine_with_the_most_free_cores() -> None:
    wide, small = job("wide", slot=Slot(3, 1)), job("small", created=2, ready=9)
    totals = [NodeCapacity("m", "", 4, 900), NodeCapacity("n", "", 4, 900), NodeCapacity("o", "", 2, 900)]

    def free(m: int, n: int) -> list[NodeCapacity]:
        return [NodeCapacity("m", "", m, 900), NodeCapacity("n", "", n, 900), NodeCapacity("o", "", 2, 900)]

    assert nodes(planned_on(free(1, 2), [wide, small], totals=totals)) == ["small on m", *["small on o"] * 2]
    assert nodes(planned_on(free(2, 1), [wide, small], totals=totals)) == ["small on n", *["small on o"] * 2]
    assert nodes(planned_on(free(1, 1), [wide, small], totals=totals)) == ["small on m", *["small on o"] * 2]
    other = replace(wide, job="wide too", created_ms=1)
    found = planned_on(free(1, 2), [wide, other, small], totals=totals)
    assert (nodes(found), found.unmet) == (["small on o"] * 2, ("wide", "wide too", "small"))
    # With a session already, or one that starts now, it waits without a reservation.
    served = planned_on(free(1, 2), [replace(wide, sessions=1), small], totals=totals)
    assert len(served.start) == 5
    starting = planned_on(free(4, 2), [replace(wide, ready=2), small], totals=totals)
    assert nodes(starting) == ["wide on m", "small on m", *["small on n"] * 2, *["small on o"] * 2]
    # Sessions of other jobs that start now do not count as its own.
    before = [job(name, priority=90, ready=1) for name in ("a", "z")]
    found = planned_on(free(2, 2), [*before, wide, small], totals=totals)
    assert nodes(found) == ["a on m", "z on m", *["small on o"] * 2]
    # Without `totals`, the free machines are taken for empty ones: none could hold it.
    assert len(planned_on(free(1, 2), [wide, small]).start) == 5


def test_a_reserved_machine_is_kept_from_on_demand_work_too() -> None:
    wide = job("wide", slot=TWO, preemptible=False, priority=90)
    assert planned([wide, job("small", preemptible=False)], [held("a", "x", preemptible=False)]).start == ()


def test_the_fewest_sessions_are_preempted_on_one_machine() -> None:
    running = [
        held("a", "spot", started_ms=2), held("b", "spot"), held("c", "spot", node="n", slot=TWO),
    ]  # fmt: skip
    full = [NodeCapacity("m", "", 0, 0), NodeCapacity("n", "", 0, 0)]
    urgent = job("od", preemptible=False, ready=1, slot=TWO)
    assert planned_on(full, [urgent], running).preempt == ("c",)
    assert planned_on(full[::-1], [urgent], running).preempt == ("c",)
    assert planned_on(full, [replace(urgent, ready=2)], running).preempt == ("c", "a", "b")
    assert planned_on(full, [replace(urgent, avoid=frozenset({"n"}))], running).preempt == ("a", "b")
    assert planned_on(full, [replace(urgent, avoid=frozenset({"m"}))], running).preempt == ("c",)
    assert planned_on(full, [replace(urgent, slot=ONE)], running).preempt == ("a",)
    assert planned_on(full, [replace(urgent, slot=Slot(3, 1))], running).preempt == ()


@pytest.mark.parametrize(
    ("free", "slot", "preempted"),
    [
        (NodeCapacity("m", "", 0, 900, 9), Slot(1, 100, 1), 1),
        (NodeCapacity("m", "", 9, 0, 9), Slot(1, 100, 1), 1),
        (NodeCapacity("m", "", 9, 900, 0), Slot(1, 100, 1), 1),
        (NodeCapacity("m", "", 0, 900, 9), Slot(2, 100, 1), 2),
        (NodeCapacity("m", "", 9, 0, 9), Slot(1, 200, 1), 2),
        (NodeCapacity("m", "", 9, 900, 0), Slot(1, 100, 2), 2),
        (NodeCapacity("m", "", 1, 900, 9), Slot(2, 100, 1), 1),
        (NodeCapacity("m", "", 0, 900, 9), Slot(3, 100, 1), 0),
        (NodeCapacity("m", "", 9, 0, 9), Slot(1, 300, 1), 0),
        (NodeCapacity("m", "", 9, 900, 0), Slot(1, 100, 3), 0),
    ],
)
def test_sessions_are_preempted_for_whichever_resource_is_short(
    free: NodeCapacity, slot: Slot, preempted: int
) -> None:
    running = [held(name, "spot", slot=Slot(1, 100, 1)) for name in "ab"]
    found = planned_on([free], [job("od", preemptible=False, ready=1, slot=slot)], running)
    assert found.preempt == ("a", "b")[:preempted]


def test_on_a_machine_that_may_have_no_more_sessions_one_ends_for_another() -> None:
    running = [held("a", "spot")]
    urgent = job("od", preemptible=False, ready=2)
    assert planned_on([NodeCapacity("m", "", 0, 0, max_starts=0)], [urgent], running).preempt == ("a",)
    for most in (-1, -2):
        assert planned_on([NodeCapacity("m", "", 0, 0, max_starts=most)], [urgent], running).preempt == ()


def test_sessions_of_lower_priority_are_preempted_first_then_the_youngest_then_by_name() -> None:
    def first(*running: Session) -> str:
        urgent = job("od", preemptible=False, ready=1)
        (name,) = planned([urgent], list(running), cores=len(running), now=9).preempt
        return name

    assert first(held("a", "x", priority=9, started_ms=5), held("b", "y", priority=8)) == "b"
    assert first(held("a", "x"), held("b", "y", started_ms=5)) == "b"
    assert first(held("b", "x"), held("a", "y")) == "a"


def test_an_idle_session_is_drained_before_another_is_preempted() -> None:
    running = [held("a", "x", started_ms=5), held("b", "done", priority=99, idle_since_ms=1)]
    found = planned([job("od", preemptible=False, ready=1)], running, now=9)
    assert (found.drain, found.preempt) == (("b",), ())


def test_sessions_of_the_waiting_job_itself_and_leaving_ones_are_not_ended_for_it() -> None:
    running = [held("a", "od"), held("b", "spot", leaving=True)]
    found = planned([job("od", preemptible=False, ready=2, sessions=1)], running, now=9)
    assert (found.drain, found.preempt) == ((), ())


def test_leaving_slots_are_kept_for_jobs_without_a_session() -> None:
    running = [held("leaving", "x", leaving=True), held("s", "x")]
    served = job("served", priority=60, sessions=1, ready=1)
    unserved = job("unserved", priority=40, ready=1)
    assert planned([served, unserved], running, now=TENURE).drain == ("s",)
    assert planned([replace(served, ready=2)], running, now=TENURE).drain == ("s",)
    # A second session of one job does not go before the first of another.
    twice = [replace(served, sessions=0, ready=2), unserved]
    running.append(held("leaving too", "x", leaving=True))
    assert planned(twice, running, cores=3, now=TENURE).drain == ("s",)


def test_leaving_slots_are_kept_for_on_demand_work_first() -> None:
    running = [held("leaving", "x", leaving=True), held("s", "x", priority=90)]
    demand = [job("od", preemptible=False, sessions=1, ready=1), job("spot", ready=1)]
    found = planned(demand, running, now=TENURE)
    assert (found.drain, found.preempt, found.unmet) == ((), (), ("od", "spot"))


def test_an_idle_session_of_a_job_with_work_is_kept() -> None:
    idle = [held("s", "a", idle_since_ms=0)]
    assert planned([job("a", ready=1, max_sessions=1, sessions=1)], idle, cores=1, now=IDLE).drain == ()
    assert planned([job("a", ready=0, sessions=1)], idle, cores=1, now=IDLE).drain == ("s",)


def test_idle_sessions_end_each_after_its_time_and_the_next_end_is_announced() -> None:
    idle = [
        held("busy", "x"),
        held("s", "x", idle_since_ms=2),
        held("t", "x", idle_since_ms=1),
        held("u", "x", idle_since_ms=0, leaving=True),
    ]
    found = planned([], idle, cores=4, now=IDLE)
    assert (found.drain, found.next_ms) == ((), IDLE + 1)
    found = planned([], idle, cores=4, now=IDLE + 1)
    assert (found.drain, found.next_ms) == (("t",), IDLE + 2)
    found = planned([], idle, cores=4, now=IDLE * 2)
    assert (found.drain, found.next_ms) == (("s", "t"), None)
    # One that makes room for other work is drained once.
    assert planned([job("a", ready=1)], idle[1:2], cores=1, now=IDLE * 2).drain == ("s",)


def test_a_session_is_drained_for_others_when_its_tenure_is_over_to_the_millisecond() -> None:
    running = [held("a", "x", started_ms=7)]
    demand = [job("high", priority=90, ready=1)]
    early = planned(demand, running, cores=1, now=TENURE + 6)
    assert (early.drain, early.next_ms) == ((), TENURE + 7)
    late = planned(demand, running, cores=1, now=TENURE + 7)
    assert (late.drain, late.next_ms) == (("a",), None)
    later = planned(demand, running, cores=1, now=TENURE * 2)
    assert (later.drain, later.next_ms) == (("a",), None)
    free = [NodeCapacity("m", "", 0, 0)]  # of five minutes, if the caller does not say
    assert planned_on(free, demand, running, now=300_006).drain == ()
    assert planned_on(free, demand, running, now=300_007).drain == ("a",)


def test_a_running_on_demand_session_is_drained_for_fairness_but_never_for_preemptible_work() -> None:
    running = [held("a", "x", preemptible=False)]
    high = job("high", priority=90, ready=1, preemptible=False)
    found = planned([high], running, cores=1, now=TENURE)
    assert (found.drain, found.preempt) == (("a",), ())
    assert planned([replace(high, preemptible=True)], running, cores=1, now=TENURE).drain == ()
    assert planned([replace(high, priority=49)], running, cores=1, now=TENURE).drain == ()


@pytest.mark.parametrize("by", ["account", "user"])
@pytest.mark.parametrize(("more", "less"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(
    ("mores", "lesses", "leaving", "ready", "drained"),
    [
        (1, 0, 0, 1, 1),
        (2, 1, 0, 1, 0),
        (3, 1, 0, 1, 1),
        (5, 1, 0, 1, 1),
        (4, 2, 0, 1, 1),
        (3, 2, 0, 1, 0),
        (4, 0, 0, 4, 2),
        (4, 1, 1, 2, 0),
        (5, 1, 1, 2, 1),
    ],
)
def test_an_account_or_user_with_no_or_clearly_fewer_cores_is_owed_a_slot(
    by: str, more: str, less: str, mores: int, lesses: int, leaving: int, ready: int, drained: int
) -> None:
    sessions = [held(f"s{n}", "large", **{by: more}, leaving=n < leaving) for n in range(mores)]
    sessions += [held(f"t{n}", "small", **{by: less}) for n in range(lesses)]
    demand = job("small", **{by: less}, ready=ready, sessions=lesses)
    found = planned([demand], sessions, cores=len(sessions), now=TENURE)
    assert found.preempt == ()
    assert len(found.drain) == drained
    assert all(name.startswith("s") for name in found.drain)


@pytest.mark.parametrize(("own", "other"), [("a", "b"), ("b", "a")])
def test_a_new_user_of_an_account_is_owed_nothing_by_an_account_with_as_many_cores(
    own: str, other: str
) -> None:
    sessions = [held(f"s{n}", "theirs", account=other, user="w") for n in range(3)]
    sessions += [held(f"t{n}", "ours", account=own, user="v", started_ms=TENURE) for n in range(3)]
    found = planned([job("new", account=own, user="u", ready=1)], sessions, cores=6, now=TENURE)
    assert found.drain == ()


def test_a_second_job_of_a_user_is_owed_its_first_session_only() -> None:
    running = [held(name, "big") for name in "abc"]
    small = job("small", ready=2)
    assert planned([small], running, cores=3, now=TENURE).drain == ("a",)
    running[0] = held("a", "small")
    assert planned([replace(small, sessions=1)], running, cores=3, now=TENURE).drain == ()
