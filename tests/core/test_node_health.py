"""Which machines are set aside, tried again and returned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.failure_codes import CAUSES, Fault
from framefarm.core.node_departure import preempt_until_ms, preemption_starts_ms
from framefarm.core.node_health import (
    BadEnd,
    HealthLimits,
    NodeHealth,
    NodeState,
    evidence_by_node,
    is_evidence,
    judge_node,
    needs_last_success,
    returned,
    set_aside,
)

LIMITS = HealthLimits(jobs=3, window_ms=900_000, pause_ms=60_000)
NODE = NodeHealth("m")


def ended(
    job: str, at: int = 1, reason: str = "crashed", node: str = "m", frames: int = 0, account: str = "one"
) -> BadEnd:
    return BadEnd(node, account, job, at, reason, frames)


def look(
    node: NodeHealth,
    *found: BadEnd,
    good: int | None = None,
    now: int = 100,
    only: bool = False,
    accounts: int = 1,
) -> NodeHealth:
    limits = replace(LIMITS, accounts=accounts)
    return judge_node(node, evidence_by_node(found).get(node.name, []), good, now, limits, only=only)


@pytest.mark.parametrize(
    ("reason", "frames", "speaks"),
    [
        ("disk_full", 0, True), ("disk_full", 5, True), ("gpu_absent", 0, True), ("machine_unfit", 0, True),
        ("machine_unfit: no sandbox", 0, True), ("machine_lost", 0, True), ("machine_lost", 5, False),
        ("killed_outside", 0, True), ("not_started", 0, True), ("crashed", 0, True), ("crashed", 1, False),
        ("render_failed", 0, True), ("no_camera", 0, False), ("newer_file", 0, False),
        ("task_timed_out", 0, False), ("rule_runtime", 0, False), ("too_many_files", 0, False),
        ("runner_lost", 0, True), ("drained", 0, False), ("fake", 0, False),
    ],
)  # fmt: skip
def test_what_may_be_the_machines_fault(reason: str, frames: int, speaks: bool) -> None:
    assert is_evidence(ended("a", reason=reason, frames=frames)) is speaks


def test_what_was_asked_for_never_speaks_against_a_machine() -> None:
    assert [
        c.code for c in CAUSES.values() if c.fault is Fault.PERSON and is_evidence(ended("a", 1, c.code))
    ] == []


def test_different_jobs_that_fail_on_a_machine_set_it_aside() -> None:
    found = [ended("a"), ended("b", 2), ended("c", 3, "disk_full")]
    after = look(NODE, *found)
    assert (after.standing, after.until_ms, after.times) == (NodeState.SET_ASIDE, 60_100, 1)
    assert after.reason == (
        "3 different jobs failed on it, with no success between: Blender crashed (2), Disk full (1)."
    )
    assert needs_last_success(NODE, found, LIMITS, only=False)


def test_the_only_machine_is_not_given_up_for_what_the_scenes_may_have_caused() -> None:
    assert look(NODE, *[ended(j) for j in "abcdef"], only=True) == NODE
    for reason in ("disk_full", "blender_broken", "not_started"):
        assert look(NODE, *[ended(j, 1, reason) for j in "abc"], only=True).standing is NodeState.SET_ASIDE


def test_no_account_takes_a_machine_from_the_others_with_its_own_scenes() -> None:
    mine = [ended(j, 1, reason) for j, reason in zip("abcd", ["crashed", "killed_outside"] * 2, strict=True)]
    assert look(NODE, *mine, accounts=2) == NODE
    trial = replace(NODE, standing=NodeState.ON_TRIAL)
    assert look(trial, *mine, accounts=2) == trial
    both = [*mine, ended("z", account="other")]
    assert look(NODE, *both, accounts=2).standing is NodeState.SET_ASIDE
    assert look(NODE, *mine, ended("z", 1, "disk_full", account="other"), accounts=2) == NODE
    full = [ended(j, 1, "disk_full") for j in "abc"]
    assert look(NODE, *full, accounts=2).standing is NodeState.SET_ASIDE


def test_one_job_alone_never_does() -> None:
    assert look(NODE, *[ended("a", n) for n in range(1, 50)]) == NODE
    assert look(NODE, *[ended(job, n) for n in range(1, 50) for job in "ab"]) == NODE


def test_a_success_between_clears_what_was_before_it() -> None:
    found = [ended("a", 1), ended("b", 2), ended("c", 4)]
    after = look(NODE, *found, good=3)
    assert (after.standing, after.counted_from_ms) == (NodeState.IN_USE, 3)
    assert not needs_last_success(after, found, LIMITS, only=False)
    assert look(after, *found, ended("d", 5), ended("e", 6)).standing is NodeState.SET_ASIDE


def test_what_befell_the_same_job_alike_elsewhere_is_the_jobs() -> None:
    bad = [ended(job, 1, node=node) for job in "abcdef" for node in ("m", "n")]
    assert look(NODE, *bad) == NODE
    assert look(NODE, *bad, *[ended(j, 2, "disk_full") for j in "abc"]).standing is NodeState.SET_ASIDE


def test_it_is_tried_again_and_each_pause_is_twice_as_long() -> None:
    node = look(NODE, *[ended(j) for j in "abc"], now=0)
    pauses = []
    for _ in range(9):
        assert node.until_ms is not None
        now = node.until_ms
        assert look(node, now=now - 1) == node
        node = look(node, now=now)
        assert node.standing is NodeState.ON_TRIAL
        assert look(node, *[ended(j) for j in "abc"], now=now) == node
        node = look(node, ended("z", now + 1), now=now + 1)
        assert node.standing is NodeState.SET_ASIDE
        assert node.reason == "It was tried again and failed: Blender crashed (1)."
        pauses.append((node.until_ms or 0) - now - 1)
    assert pauses == [60_000 * n for n in (2, 4, 8, 16, 32, 64, 64, 64, 64)]


def test_a_success_on_trial_returns_it() -> None:
    trial = replace(NODE, standing=NodeState.ON_TRIAL, since_ms=50, counted_from_ms=50, times=4, reason="x")
    assert look(trial, good=50) == trial
    assert look(trial, good=51, now=60) == returned(NODE, 60)


def test_what_an_operator_set_aside_stays_so() -> None:
    node = set_aside(NODE, 5, "new disk")
    assert look(node, good=10**9, now=10**12) == node
    assert returned(node, 9) == NodeHealth("m", since_ms=9, counted_from_ms=9)


@given(
    found=st.lists(
        st.builds(
            BadEnd, st.sampled_from("mn"), st.just("one"), st.sampled_from("abcd"), st.integers(1, 50),
            st.sampled_from(["crashed", "disk_full", "no_camera", "machine_lost"]), st.integers(0, 1),
        )
    ),
    good=st.none() | st.integers(1, 50),
    node=st.builds(
        NodeHealth, st.just("m"), st.sampled_from(NodeState), st.just(0), st.integers(0, 50),
        st.none() | st.integers(0, 200), st.integers(0, 9),
    ),
    now=st.integers(60, 300),
)  # fmt: skip
def test_a_machine_never_waits_for_ever_and_is_never_set_aside_for_less(
    found: list[BadEnd], good: int | None, node: NodeHealth, now: int
) -> None:
    after = look(node, *found, good=good, now=now)
    if node.standing is NodeState.SET_ASIDE and node.until_ms is None:
        assert after == node
    elif after.standing is NodeState.SET_ASIDE:
        assert after.until_ms is not None and after.until_ms > now
        assert look(after, now=after.until_ms).standing is NodeState.ON_TRIAL
    if after.standing is NodeState.SET_ASIDE and node.standing is NodeState.IN_USE:
        late = max(node.counted_from_ms, good or 0)
        assert (
            len({e.job for e in found if e.node == "m" and e.at_ms > late and is_evidence(e)}) >= LIMITS.jobs
        )


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 60_000), st.integers(0, 10_000))
def test_a_session_leaves_before_its_machine_is_taken(deadline: int, now: int, grace: int, stop: int) -> None:
    until = preempt_until_ms(deadline, now, grace_ms=grace, stop_ms=stop)
    then = preemption_starts_ms(deadline, now, grace_ms=grace, stop_ms=stop)
    assert (until is None) == (then is not None)
    if until is not None:
        assert until == max(now, deadline - stop)
    if then is not None:
        assert preempt_until_ms(deadline, then, grace_ms=grace, stop_ms=stop) == deadline - stop
