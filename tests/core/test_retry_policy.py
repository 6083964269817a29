"""When a task that fails alike gets no further attempt."""

from __future__ import annotations

import pytest

from framefarm.core.failure_codes import (
    CAUSES,
    Fault,
    fails_everywhere,
    is_known_at_opening,
    is_scene_fault,
)
from framefarm.core.retry_policy import (
    Failure,
    needs_earlier_failures,
    reason_not_to_retry,
    reason_to_fail_job,
)

SCENE, ASKED = "so the fault is with the scene", "so the fault is with what was asked for"
CERTAIN = "and would on every machine"


@pytest.mark.parametrize(
    ("now", "before", "reason"),
    [
        ("a crashed", [], None),
        ("a crashed", ["a crashed", "a crashed"], None),
        ("a crashed", ["b crashed"], SCENE),
        ("a crashed", ["a out_of_memory", "b no_progress"], None),
        ("a crashed", ["a out_of_memory", "b crashed"], SCENE),
        ("a out_of_memory", ["b out_of_memory"], SCENE),
        ("a no_progress", ["b crashed"], None),
        ("a task_timed_out", ["b task_timed_out"], ASKED),
        ("a rule_runtime", ["b rule_runtime"], None),
        ("a disk_full", ["b disk_full", "c disk_full"], None),
        ("a blender_broken", ["b blender_broken"], None),
        ("a frames_missing", ["b frames_missing"], None),
        ("a no_camera", [], None),
        ("a no_camera", ["a no_camera"], CERTAIN),
        ("a no_camera", ["b no_camera"], SCENE),
        ("a unknown_camera", ["a crashed", "a unknown_camera"], CERTAIN),
        ("a fake", ["b fake"], None),
    ],
)
def test_when_a_task_is_not_tried_again(now: str, before: list[str], reason: str | None) -> None:
    why = reason_not_to_retry(Failure(*now.split()), [Failure(*b.split()) for b in before])
    assert why is None if reason is None else why is not None and reason in why


def test_the_sentence_counts_nodes_or_attempts_that_failed_alike() -> None:
    failures = [Failure("b", "crashed"), Failure("c", "crashed"), Failure("d", "no_progress")]
    assert reason_not_to_retry(Failure("a", "crashed"), failures) == (
        "It failed alike on 3 machines, so the fault is with the scene: it is not tried again."
    )
    assert reason_not_to_retry(Failure("a", "no_camera"), [Failure("a", "no_camera")] * 2) == (
        "It failed alike 3 times, and would on every machine: it is not tried again."
    )


@pytest.mark.parametrize(
    ("now", "before", "opened", "rendered", "at_opening", "fails"),
    [
        ("a no_camera", [], False, False, True, True),
        ("a no_camera", [], True, False, True, False),  # another session has opened it
        ("a no_camera", [], False, False, False, False),
        ("a crashed", ["a crashed"], False, False, True, False),
        ("a crashed", ["b crashed"], False, False, True, True),
        ("a crashed", ["a crashed", "a crashed"], False, False, True, True),
        ("a crashed", ["a crashed", "a crashed"], True, False, True, False),
        ("a crashed", ["a out_of_memory", "a crashed"], False, False, True, False),
        ("a no_gl", ["a no_gl", "a no_gl"], True, False, False, True),
        ("a no_gl", ["a no_gl", "a no_gl"], True, True, False, False),
        ("a rule_runtime", ["b rule_runtime"], False, False, True, False),
        ("a disk_full", ["b disk_full", "c disk_full"], False, False, True, False),
    ],
)
def test_when_a_whole_job_fails_with_a_task(
    now: str, before: list[str], opened: bool, rendered: bool, at_opening: bool, fails: bool
) -> None:
    latest, earlier = Failure(*now.split()), [Failure(*b.split()) for b in before]
    reason = reason_to_fail_job(latest, earlier, opened=opened, rendered=rendered, at_opening=at_opening)
    assert (reason is not None) is fails
    assert not fails or needs_earlier_failures(latest.cause, opened=opened, rendered=rendered)


def test_failures_at_opening_are_of_the_scene_or_of_what_was_asked_for() -> None:
    assert all(is_scene_fault(c) for c in CAUSES if is_known_at_opening(c))


def test_certain_failures_are_of_the_scene_or_of_what_was_asked_for() -> None:
    certain = [c for c in CAUSES if fails_everywhere(c)]
    assert certain
    assert {CAUSES[c].fault for c in certain} == {Fault.SCENE, Fault.PERSON}
    assert all(is_scene_fault(c) for c in certain)


def test_a_failure_without_a_cause_is_tried_again() -> None:
    assert reason_not_to_retry(Failure("a", None), [Failure("b", None)]) is None
