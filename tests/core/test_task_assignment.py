"""Batches of tasks that a session is assigned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.task_assignment import batch_size


@given(
    st.integers(0, 20), st.none() | st.integers(1, 100_000), st.integers(1, 50), st.integers(1, 500),
    st.integers(1, 50),
)  # fmt: skip
def test_a_hand_out_is_bounded_and_an_empty_session_gets_work(
    held: int, frame_ms: int | None, per_task: int, ready: int, live: int
) -> None:
    size = batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
    assert 0 <= size <= min(16, ready)
    if held == 0:
        assert size >= 1


@pytest.mark.parametrize(
    ("held", "frame_ms", "per_task", "ready", "live", "size"),
    [
        (0, None, 1, 50, 1, 1),  # of unknown length: alone
        (1, None, 1, 50, 1, 0),
        (0, 100, 1, 100, 1, 10),  # a second of work
        (0, 143, 1, 100, 1, 6),
        (0, 100, 2, 100, 1, 5),
        (0, 1, 1, 100, 1, 16),  # at most 16
        (0, 0, 1, 100, 1, 16),
        (5, 100, 1, 100, 1, 5),  # topped up once half is used
        (6, 100, 1, 100, 1, 0),
        (3, 100, 1, 100, 1, 7),
        (0, 100, 1, 12, 4, 3),  # shared among the live sessions
        (2, 100, 1, 12, 5, 2),
        (1, 100, 1, 1, 3, 0),
        (0, 100, 1, 1, 3, 1),
        (0, 100, 1, 5, 0, 5),  # no session counted yet
        (1, 100, 1, 5, 0, 5),
        (0, 100, 1, 0, 1, 0),
        (0, 5000, 1, 4, 2, 2),  # one held ahead while there are plenty
        (0, 5000, 1, 50, 2, 2),
        (0, 5000, 1, 3, 2, 1),
        (1, 5000, 1, 3, 2, 1),
        (0, 5000, 1, 2, 2, 1),
        (1, 5000, 1, 2, 2, 0),
        (2, 5000, 1, 50, 2, 0),
    ],
)
def test_examples_of_batch_sizes(
    held: int, frame_ms: int | None, per_task: int, ready: int, live: int, size: int
) -> None:
    assert (
        batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
        == size
    )


@given(
    st.integers(0, 20), st.integers(0, 3000), st.integers(1, 5), st.integers(0, 100), st.integers(1, 20)
)  # fmt: skip
def test_a_batch_leaves_as_many_tasks_for_every_other_session(
    held: int, frame_ms: int, per_task: int, ready: int, live: int
) -> None:
    size = batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
    assert size * live <= ready or (held == 0 and size == 1)
