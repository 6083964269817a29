"""Which sessions start and which are drained."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.schedule import Demand, Idle, Machine, Slot, plan

ONE = Slot(1, 100)


def job(name: str, *, ready: int = 5, priority: int = 50, created: int = 0, **more: int) -> Demand:
    return Demand(name, "acc", priority, created, "local-1", True, ONE, ready, **more)  # type: ignore[arg-type]


def starts(demand: list[Demand], cores: int = 2, idle: list[Idle] | None = None, now: int = 0) -> list[str]:
    found = plan(demand, [Machine("m", "", cores, 10_000)], idle or [], now_ms=now, idle_ms=10_000)
    return [s.job for s in found.start]


def test_priority_comes_first_then_age() -> None:
    assert starts([job("old"), job("urgent", priority=90, created=5)]) == ["urgent", "urgent"]
    assert starts([job("new", created=9), job("old", created=1)]) == ["old", "old"]


def test_no_more_sessions_than_tasks_or_than_asked_for() -> None:
    assert starts([job("a", ready=1), job("b")]) == ["a", "b"]
    assert starts([job("a", max_sessions=1)]) == ["a"]
    assert starts([job("a", ready=2, starting=2, sessions=2)]) == []


def test_an_idle_session_goes_at_once_when_others_wait_and_else_later() -> None:
    idle = [Idle("s", "done", 0, "m", ONE)]
    machines = [Machine("m", "", 0, 10_000)]
    assert plan([job("a")], machines, idle, now_ms=1, idle_ms=10_000).drain == ("s",)
    assert plan([], machines, idle, now_ms=1, idle_ms=10_000).drain == ()
    assert plan([], machines, idle, now_ms=10_000, idle_ms=10_000).drain == ("s",)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100), st.integers(1, 4)), max_size=8),
    st.integers(0, 8),
)
def test_never_more_than_there_is(jobs: list[tuple[int, int, int]], cores: int) -> None:
    demand = [Demand(f"j{i}", "a", p, i, "t", True, Slot(c, 10), r) for i, (r, p, c) in enumerate(jobs)]
    found = plan(demand, [Machine("m", "", cores, 60)], [], now_ms=0, idle_ms=1)
    sizes = {d.job: d.slot for d in demand}
    assert sum(sizes[s.job].cores for s in found.start) <= cores
    assert sum(sizes[s.job].memory_bytes for s in found.start) <= 60
    for d in demand:
        assert sum(s.job == d.job for s in found.start) <= d.ready
