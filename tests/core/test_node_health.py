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
    nodes_to_avoid,
    returned,
    set_aside,
)

LIMITS = HealthLimits(jobs=3, window_ms=900_000, pause_ms=60_000)
NODE = NodeHealth("m")


def ended(
    job: str,
    at: int = 1,
    reason: str = "crashed",
    node: str = "m",
    frames: int = 0,
    account: str = "one",
    scene: str | None = None,
) -> BadEnd:
    return BadEnd(node, account, job, at, reason, frames, scene, before_blender=True)


def by_node(*found: BadEnd, elsewhere: bool = True) -> dict[str, list[BadEnd]]:
    """Evidence; `elsewhere`: another node has rendered all these jobs."""
    return evidence_by_node(found, {end.job: {"elsewhere"} for end in found} if elsewhere else {})


def judged(
    node: NodeHealth,
    *found: BadEnd,
    good: int | None = None,
    now: int = 100,
    only: bool = False,
    accounts: int = 1,
    elsewhere: bool = True,
) -> NodeHealth:
    limits = replace(LIMITS, accounts=accounts)
    evidence = by_node(*found, elsewhere=elsewhere).get(node.name, [])
    return judge_node(node, evidence, good, now, limits, only=only)


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
def test_ends_that_may_be_the_machines_fault(reason: str, frames: int, speaks: bool) -> None:
    assert is_evidence(ended("a", reason=reason, frames=frames)) is speaks


def test_a_persons_fault_never_speaks_against_a_machine() -> None:
    assert [
        c.code for c in CAUSES.values() if c.fault is Fault.PERSON and is_evidence(ended("a", 1, c.code))
    ] == []


def test_different_jobs_that_fail_on_a_machine_set_it_aside() -> None:
    found = [ended("a"), ended("b", 2), ended("c", 3, "disk_full")]
    after = judged(NODE, *found)
    assert (after.standing, after.until_ms, after.times) == (NodeState.SET_ASIDE, 60_100, 1)
    assert after.reason == (
        "3 unlike jobs failed on it, with no success between: Blender crashed (2), Disk full (1)."
    )
    assert needs_last_success(NODE, found, LIMITS, only=False)


def test_the_only_machine_is_not_given_up_for_what_the_scenes_may_have_caused() -> None:
    assert judged(NODE, *[ended(j) for j in "abcdef"], only=True) == NODE
    assert judged(NODE, *[ended(j, 1, "frames_missing") for j in "abc"], only=True) == NODE
    for reason in ("disk_full", "not_started"):
        assert judged(NODE, *[ended(j, 1, reason) for j in "abc"], only=True).standing is NodeState.SET_ASIDE


def test_no_account_takes_a_machine_from_the_others_with_its_own_scenes() -> None:
    mine = [ended(j, 1, reason) for j, reason in zip("abcd", ["crashed", "killed_outside"] * 2, strict=True)]
    assert judged(NODE, *mine, accounts=2) == NODE
    trial = replace(NODE, standing=NodeState.ON_TRIAL)
    assert judged(trial, *mine, accounts=2) == trial
    both = [*mine, ended("z", account="other")]
    assert judged(NODE, *both, accounts=2).standing is NodeState.SET_ASIDE
    assert judged(NODE, *mine, ended("z", 1, "disk_full", account="other"), accounts=2) == NODE
    full = [ended(j, 1, "disk_full") for j in "abc"]
    assert judged(NODE, *full, accounts=2).standing is NodeState.SET_ASIDE


def test_one_or_two_jobs_alone_never_set_a_machine_aside() -> None:
    assert judged(NODE, *[ended("a", n) for n in range(1, 50)]) == NODE
    assert judged(NODE, *[ended(job, n) for n in range(1, 50) for job in "ab"]) == NODE


def test_a_success_between_clears_what_was_before_it() -> None:
    found = [ended("a", 1), ended("b", 2), ended("c", 4)]
    after = judged(NODE, *found, good=3)
    assert (after.standing, after.counted_from_ms) == (NodeState.IN_USE, 3)
    assert not needs_last_success(after, found, LIMITS, only=False)
    assert judged(after, *found, ended("d", 5), ended("e", 6)).standing is NodeState.SET_ASIDE


def test_a_job_that_fails_alike_on_two_machines_speaks_against_neither() -> None:
    bad = [ended(job, 1, node=node) for job in "abcdef" for node in ("m", "n")]
    assert judged(NODE, *bad) == NODE
    assert judged(NODE, *bad, *[ended(j, 2, "disk_full") for j in "abc"]).standing is NodeState.SET_ASIDE


def test_it_is_tried_again_and_each_pause_is_twice_as_long() -> None:
    node = judged(NODE, *[ended(j) for j in "abc"], now=0)
    pauses = []
    for _ in range(9):
        assert node.until_ms is not None
        now = node.until_ms
        assert judged(node, now=now - 1) == node
        node = judged(node, now=now)
        assert node.standing is NodeState.ON_TRIAL
        assert judged(node, *[ended(j) for j in "abc"], now=now) == node
        node = judged(node, ended("z", now + 1), now=now + 1)
        assert node.standing is NodeState.SET_ASIDE
        assert node.reason == "It was tried again and failed: Blender crashed (1)."
        pauses.append((node.until_ms or 0) - now - 1)
    assert pauses == [60_000 * n for n in (2, 4, 8, 16, 32, 64, 64, 64, 64)]


def test_a_success_on_trial_returns_it() -> None:
    trial = replace(NODE, standing=NodeState.ON_TRIAL, since_ms=50, counted_from_ms=50, times=4, reason="x")
    assert judged(trial, good=50) == trial
    assert judged(trial, good=51, now=60) == returned(NODE, 60)


def test_a_machine_that_an_operator_set_aside_stays_so() -> None:
    node = set_aside(NODE, 5, "new disk")
    assert judged(node, good=10**9, now=10**12) == node
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
    after = judged(node, *found, good=good, now=now)
    if node.standing is NodeState.SET_ASIDE and node.until_ms is None:
        assert after == node
    elif after.standing is NodeState.SET_ASIDE:
        assert after.until_ms is not None and after.until_ms > now
        assert judged(after, now=after.until_ms).standing is NodeState.ON_TRIAL
    if after.standing is NodeState.SET_ASIDE and node.standing is NodeState.IN_USE:
        late = max(node.counted_from_ms, good or 0)
        assert (
            len({e.job for e in found if e.node == "m" and e.at_ms > late and is_evidence(e)}) >= LIMITS.jobs
        )


@pytest.mark.parametrize(
    ("reason", "certain"),
    [
        ("disk_full", True), ("disk_full: 3 MB left", True), ("machine_lost", True),
        ("blender_broken", False), ("frames_missing", False),
        ("not_started", True), ("runner_lost", True), ("runner_failed: 1", True), ("killed_outside", False),
        ("crashed", False), ("task_timed_out", False), ("drained", False),
    ],
)  # fmt: skip
def test_some_ends_are_the_machines_fault_whatever_the_scene(reason: str, certain: bool) -> None:
    assert ended("a", reason=reason).certain is certain


@pytest.mark.parametrize("reason", ["not_started", "runner_lost", "runner_failed: exit 1"])
def test_a_sessions_bad_end_speaks_against_its_machine_unless_it_committed_a_frame(reason: str) -> None:
    assert is_evidence(ended("a", reason=reason))
    assert not is_evidence(ended("a", reason=reason, frames=1))


def test_only_counted_ends_are_against_a_machine_and_by_reason_and_job() -> None:
    bad, other = ended("a"), ended("a", 2, "disk_full", node="n")
    assert by_node(bad, ended("b", reason="no_camera"), other) == {"m": [bad], "n": [other]}
    assert by_node(bad, ended("a", 3), replace(bad, node="n")) == {}


def test_what_a_job_may_have_caused_counts_only_if_another_machine_rendered_the_same_scene() -> None:
    crash, full = ended("a", scene="s"), ended("b", reason="disk_full")
    assert evidence_by_node([crash, full], {}) == {"m": [full]}
    assert evidence_by_node([crash, full], {"a": {"m"}}) == {"m": [full]}
    assert evidence_by_node([crash, full], {"a": {"m", "n"}}) == {"m": [crash, full]}
    again = ended("c", scene="s")
    assert evidence_by_node([crash, again], {"c": {"n"}}) == {"m": [crash, again]}


@pytest.mark.parametrize("reason", ["frames_missing", "crashed", "blender_broken", "picture_damaged"])
def test_resubmissions_of_one_scene_set_no_machine_aside(reason: str) -> None:
    alike = [ended(job, 1, reason, scene="s") for job in "abcdef"]
    assert judged(NODE, *alike) == NODE
    assert judged(NODE, *alike, elsewhere=False) == NODE
    assert judged(NODE, *[replace(end, reason="disk_full") for end in alike]) == NODE
    unlike = [*alike, ended("x", 1, reason, scene="t"), ended("y", 1, reason, scene="u")]
    assert judged(NODE, *unlike, elsewhere=False) == NODE
    assert judged(NODE, *unlike).standing is NodeState.SET_ASIDE


_JOBS_FAULT = sorted(code for code, cause in CAUSES.items() if cause.fault is not Fault.MACHINE)


@given(
    jobs=st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(st.sampled_from("stuvwx"), st.sampled_from(_JOBS_FAULT), st.sets(st.sampled_from("mno"))),
    ),
    trial=st.booleans(),
    accounts=st.integers(1, 3),
    only=st.booleans(),
)
def test_a_fault_of_jobs_never_sets_a_machine_aside(
    jobs: dict[str, tuple[str, str, set[str]]], trial: bool, accounts: int, only: bool
) -> None:
    """Each scene here fails by its own fault: in the same way wherever it is rendered."""
    fault = {scene: code for scene, code, _ in jobs.values()}
    found = [
        BadEnd(node, f"account {number % accounts}", job, 5, fault[scene], 0, scene)
        for number, (job, (scene, _, nodes)) in enumerate(jobs.items())
        for node in sorted(nodes)
    ]
    node = replace(NODE, standing=NodeState.ON_TRIAL) if trial else NODE
    limits = replace(LIMITS, accounts=accounts)
    evidence = evidence_by_node(found, {}).get("m", [])
    assert judge_node(node, evidence, None, 100, limits, only=only) == node


SECOND = 1000
NOW = 500 * SECOND


def failed(age_ms: int, reason: str = "disk_full", job: str = "a", node: str = "m") -> BadEnd:
    return ended(job, NOW - age_ms, reason, node)


@pytest.mark.parametrize(
    ("ages_ms", "until_ms"),
    [
        ([0], NOW + 1000),
        ([999], NOW + 1),
        ([1000], None),
        ([0, 5000], NOW + 2000),
        ([1999, 5000], NOW + 1),
        ([2000, 5000], None),
        ([5000, 0, 6000], NOW + 4000),
        ([0] * 5, NOW + 16_000),
        ([0] * 6, NOW + 32_000),
        ([0] * 7, NOW + 32_000),
        ([0, 119_999], NOW + 2000),
        ([0, 120_000], NOW + 1000),
        ([0, 120_001], NOW + 1000),
        ([5000], None),
    ],
)
def test_a_job_avoids_a_machine_for_a_second_doubled_by_each_failure_of_two_minutes(
    ages_ms: list[int], until_ms: int | None
) -> None:
    expected = {"a": {"m": (until_ms, "Disk full")}} if until_ms else {}
    assert nodes_to_avoid([failed(age) for age in ages_ms], NOW) == expected


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("disk_full: 3 MB", "Disk full"),
        ("not_started", "a session did not start"),
        ("runner_lost", "a session was lost"),
        ("runner_failed: exit 1", "a session's runner failed"),
        ("machine_lost", None),
        ("crashed", None),
        ("blender_broken", None),
        ("drained", None),
    ],
)
def test_a_job_avoids_a_machine_only_for_the_machines_own_faults(reason: str, word: str | None) -> None:
    assert nodes_to_avoid([failed(0, reason)], NOW) == ({"a": {"m": (NOW + 1000, word)}} if word else {})


def test_each_job_avoids_its_own_machines_for_the_last_reason() -> None:
    bad = [failed(5, "gpu_absent"), failed(9), failed(3, node="n"), failed(0, job="b")]
    assert nodes_to_avoid(bad, NOW) == {
        "a": {"m": (NOW + 1995, "No GPU"), "n": (NOW + 997, "Disk full")},
        "b": {"m": (NOW + 1000, "Disk full")},
    }


def test_a_machine_is_suspect_when_enough_jobs_failed_or_while_it_is_on_trial() -> None:
    def is_suspect(node: NodeHealth, jobs: str, **how: bool) -> bool:
        return needs_last_success(node, [ended(j, 5) for j in jobs], LIMITS, only=how.get("only", False))

    assert [is_suspect(NODE, jobs) for jobs in ("ab", "aab", "abc", "abcd")] == [False, False, True, True]
    assert not is_suspect(NODE, "abc", only=True)
    assert not is_suspect(replace(NODE, standing=NodeState.SET_ASIDE), "abc")
    assert is_suspect(replace(NODE, standing=NodeState.ON_TRIAL), "")
    assert is_suspect(replace(NODE, counted_from_ms=4), "abc")
    assert not is_suspect(replace(NODE, counted_from_ms=5), "abc")


def test_a_machine_set_aside_remembers_when_and_how_often() -> None:
    limits = replace(LIMITS, jobs=1)
    node = replace(NODE, since_ms=1, counted_from_ms=2, times=3)
    aside = judge_node(node, [ended("a", 3)], None, 100, limits, only=False)
    assert aside == NodeHealth(
        "m", NodeState.SET_ASIDE, since_ms=100, counted_from_ms=2, until_ms=100 + 8 * 60_000, times=4,
        reason="1 unlike jobs failed on it, with no success between: Blender crashed (1).",
    )  # fmt: skip
    now = aside.until_ms or 0
    assert judged(aside, now=now) == replace(
        aside, standing=NodeState.ON_TRIAL, since_ms=now, counted_from_ms=now
    )
    by_person = set_aside(aside, 200, "new disk")
    assert by_person == replace(aside, since_ms=200, until_ms=None, reason="new disk")
    assert returned(by_person, 300) == NodeHealth("m", NodeState.IN_USE, since_ms=300, counted_from_ms=300)


def test_a_success_counts_only_after_the_failures_counted_before_were_cleared() -> None:
    node = replace(NODE, counted_from_ms=50)
    assert judged(node, good=50) == judged(node, good=49) == node
    assert judged(node, good=51).counted_from_ms == 51


def test_a_new_node_is_in_use_and_nothing_counts_against_it() -> None:
    assert NodeHealth("m") == NodeHealth("m", NodeState.IN_USE, 0, 0, None, 0, None)
    assert BadEnd("m", "one", "a", 1, "crashed").frames == 0
    assert HealthLimits(jobs=3, window_ms=1, pause_ms=1).accounts == 1


def test_the_reason_names_the_four_most_frequent_failures() -> None:
    reasons = ["crashed"] * 5 + ["disk_full"] * 4 + ["not_started"] * 3 + ["render_failed"] * 2 + ["all_nan"]
    after = judged(NODE, *[ended(str(n), 1, reason) for n, reason in enumerate(reasons)])
    assert after.reason == (
        "15 unlike jobs failed on it, with no success between: "
        "Blender crashed (5), Disk full (4), a session did not start (3), Render failed (2)."
    )


def test_with_two_accounts_both_must_have_failures_that_scenes_may_cause() -> None:
    crashes = [ended("a"), ended("b"), ended("c", account="other")]
    for accounts in (1, 2, 3):
        assert judged(NODE, *crashes, accounts=accounts).standing is NodeState.SET_ASIDE
    assert judged(NODE, *[ended(j) for j in "abc"], accounts=1).standing is NodeState.SET_ASIDE
    assert judged(NODE, *crashes, accounts=2, only=True) == NODE
    third = [*crashes, ended("d", account="third")]
    assert judged(NODE, *third, accounts=3).standing is NodeState.SET_ASIDE


def test_a_session_drains_until_its_grace_begins_and_is_killed_before_the_deadline() -> None:
    def at(now: int) -> int | None:
        return preempt_until_ms(1000, now, grace_ms=100, stop_ms=50)

    assert [at(now) for now in (0, 849, 850, 900, 950, 951, 2000)] == [None, None, 950, 950, 950, 951, 2000]
    following = [preemption_starts_ms(1000, now, grace_ms=100, stop_ms=50) for now in (0, 849, 850, 900)]
    assert following == [850, 850, None, None]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 60_000), st.integers(0, 10_000))
def test_a_session_leaves_before_its_machine_is_taken(deadline: int, now: int, grace: int, stop: int) -> None:
    until = preempt_until_ms(deadline, now, grace_ms=grace, stop_ms=stop)
    then = preemption_starts_ms(deadline, now, grace_ms=grace, stop_ms=stop)
    assert (until is None) == (then is not None)
    if until is not None:
        assert until == max(now, deadline - stop)
    if then is not None:
        assert preempt_until_ms(deadline, then, grace_ms=grace, stop_ms=stop) == deadline - stop
