"""The task queue: sequences of events, races included."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from framefarm.node.task_queue import TaskQueue
from framefarm.protocol import node as msg


def order(name: str, *frames: int) -> msg.TaskOrder:
    return msg.TaskOrder(attempt=name, number=0, frames=list(frames))


def desired(
    version: int, *orders: msg.TaskOrder, drain: bool = False, cancel: bool = False
) -> msg.DesiredState:
    return msg.DesiredState(version=version, tasks=list(orders), drain=drain, cancel=cancel)


def test_frames_are_rendered_in_order_and_the_last_ends_the_task() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1, 2)), 0)
    first = queue.next(5)
    assert first is not None
    assert (first.frame, first.first) == (1, True)
    assert queue.next(6) is None
    assert queue.saved(1, 0, 7) == ("a", [])
    queue.staged()
    assert queue.next(8).frame == 2  # type: ignore[union-attr]
    attempt, ends = queue.saved(2, 9, 20) or ("", [])
    assert attempt == "a"
    assert [(e.outcome, e.started_ms, e.ended_ms) for e in ends] == [("success", 5, 20)]  # type: ignore[union-attr]


def test_an_unbegun_task_that_is_withdrawn_is_released_at_once() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1), order("b", 2)), 0)
    queue.next(1)
    assert queue.take(desired(2), 2) == [msg.TaskReleased(attempt="b")]
    assert queue.current is not None


def test_a_begun_task_that_is_withdrawn_ends_after_its_frame_in_work() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1, 2, 3)), 0)
    queue.next(1)
    assert queue.take(desired(2), 2) == []
    _, ends = queue.saved(1, 0, 9) or ("", [])
    assert [e.outcome for e in ends] == ["cancelled"]  # type: ignore[union-attr]
    assert queue.next(10) is None


def test_a_task_given_up_does_not_come_back_by_being_listed_again() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1)), 0)
    assert queue.take(desired(2), 1) == [msg.TaskReleased(attempt="a")]
    queue.take(desired(3, order("a", 1)), 2)
    assert queue.next(3) is None


def test_an_older_desired_state_is_ignored() -> None:
    queue = TaskQueue()
    queue.take(desired(5, order("a", 1)), 0)
    assert queue.take(desired(4), 1) == []
    assert queue.next(2) is not None


def test_cancel_ends_what_was_begun_and_releases_the_rest() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1), order("b", 2)), 0)
    queue.next(1)
    events = queue.take(desired(2, order("a", 1), order("b", 2), cancel=True), 4)
    assert sorted(type(e).__name__ for e in events) == ["TaskEnded", "TaskReleased"]
    assert queue.done


def test_drain_ends_only_when_nothing_is_left() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1)), 0)
    queue.take(desired(2, order("a", 1), drain=True), 1)
    assert not queue.done
    queue.next(2)
    queue.saved(1, 0, 3)
    assert queue.done


def test_rendering_pauses_while_two_frames_wait_for_staging() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1, 2, 3)), 0)
    for frame in (1, 2):
        assert queue.next(1) is not None
        queue.saved(frame, 0, 2)
    assert queue.next(3) is None
    queue.staged()
    assert queue.next(4) is not None


def test_a_failure_while_the_scene_opens_fails_the_task_in_hand() -> None:
    queue = TaskQueue()
    queue.take(desired(1, order("a", 1)), 0)
    queue.begin_without_frame(1)
    (end,) = queue.failed("no_camera", "There is no camera.", None, 9)
    assert isinstance(end, msg.TaskEnded)
    assert (end.outcome, end.cause) == ("failed", "no_camera")


steps = st.lists(st.sampled_from(["give", "drop", "next", "save", "fail", "cancel", "stage"]), max_size=60)


@given(steps)
def test_every_task_ends_exactly_once_and_attempts_never_overlap(script: list[str]) -> None:
    queue, events, listed = TaskQueue(), [], []  # type: ignore[var-annotated]
    version = now = count = 0
    in_work: int | None = None
    for step in script:
        now += 1
        if step == "give":
            count += 1
            listed.append(order(f"t{count}", count * 10, count * 10 + 1))
        if step == "drop" and listed:
            listed.pop(0)
        if step in {"give", "drop", "cancel"}:
            version += 1
            events += queue.take(desired(version, *listed, cancel=step == "cancel"), now)
        if step == "next" and (due := queue.next(now)):
            assert due.attempt in {o.attempt for o in listed}
            in_work = due.frame
        if step == "save" and in_work is not None and (result := queue.saved(in_work, 0, now)):
            events += result[1]
            in_work = None
        if step == "stage" and queue.waiting:
            queue.staged()
        if step == "fail":
            events += queue.failed("crashed", "It crashed.", None, now)
            in_work = None
    events += queue.stop(now + 1)
    names = [e.attempt for e in events]
    taken = queue.known
    assert sorted(names) == sorted(taken)
    spans = sorted((e.started_ms, e.ended_ms) for e in events if isinstance(e, msg.TaskEnded))
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_rendering_pauses_while_too_much_is_not_acknowledged_and_goes_on_after() -> None:
    queue = TaskQueue(max_unacknowledged_bytes=100)
    queue.take(desired(1, order("a", 1, 2, 3)), 0)
    queue.next(1)
    queue.saved(1, 0, 2)
    queue.staged(1, 99)
    assert queue.next(3).frame == 2  # type: ignore[union-attr]
    queue.saved(2, 0, 4)
    queue.staged(1, 1)
    assert queue.next(5) is None
    assert queue.next_deadline_ms is None, "a Blender that waits is not late"
    queue.acknowledged(99)
    assert queue.next(6).frame == 3  # type: ignore[union-attr]


def test_an_acknowledgement_may_come_before_the_frame_counts_as_staged() -> None:
    queue = TaskQueue(max_unacknowledged_bytes=100)
    queue.take(desired(1, order("a", 1, 2)), 0)
    queue.next(1)
    queue.saved(1, 0, 2)
    queue.acknowledged(100)
    queue.staged(1, 100)
    assert queue.unacknowledged_bytes == 0
    assert queue.next(3).frame == 2  # type: ignore[union-attr]
