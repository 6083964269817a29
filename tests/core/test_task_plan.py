"""A job's tasks, computed from its frames, scouts and chunk size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_frames import frames, specs, text_of

from framefarm.core.frame_grammar import resolve_scouts
from framefarm.core.frames import FrameSet
from framefarm.core.task_plan import TaskPlan


@given(specs, st.integers(0, 9), st.integers(1, 9))
def test_tasks_hold_every_frame_once_scouts_first(
    spec: list[tuple[int, int, int]], scouts: int, chunk: int
) -> None:
    all_frames = frames(text_of(spec))
    chosen = resolve_scouts(f"fml:{scouts}" if scouts else "", all_frames)
    plan = TaskPlan(all_frames, chosen, chunk)
    tasks = [plan.frames_of(n) for n in range(plan.task_count)]
    assert sorted(f for t in tasks for f in t) == list(all_frames)
    assert tasks[: plan.scout_count] == [[f] for f in chosen]
    assert all(len(t) == chunk for t in tasks[plan.scout_count : -1])
    assert all(f in plan.frames_of(plan.task_of(f)) for f in all_frames)


def test_a_million_frames_are_one_run_and_its_tasks_are_computed() -> None:
    everything = frames("1-1000000")
    assert len(everything.runs) == 1
    plan = TaskPlan(everything, resolve_scouts("fml:3", everything), 7)
    assert plan.task_count == 3 + 142_857
    assert plan.number_width == 6
    assert plan.frames_of(1) == [500_001]
    assert plan.frames_of(plan.task_count - 1) == list(range(999_994, 1_000_000))[1:]
    assert len(plan.rest.runs) == 2


def test_tasks_are_numbered_with_three_digits_or_as_many_as_needed() -> None:
    assert [TaskPlan(frames(f"1-{n}"), FrameSet(), 1).number_width for n in (1, 1000, 1001)] == [3, 3, 4]


def test_there_is_no_task_beyond_the_last_nor_one_for_a_frame_not_asked_for() -> None:
    plan = TaskPlan(frames("1-9x2"), FrameSet(), 2)
    for number in (-1, 3, 4, 99):
        with pytest.raises(IndexError):
            plan.frames_of(number)
    with pytest.raises(ValueError):
        plan.task_of(2)


def test_the_stepped_chunks_of_the_rules_hold_nothing_else() -> None:
    plan = TaskPlan(frames("1-20x3"), FrameSet(), 3)
    assert [plan.frames_of(n) for n in range(plan.task_count)] == [[1, 4, 7], [10, 13, 16], [19]]
