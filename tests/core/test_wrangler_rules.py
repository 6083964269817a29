"""What rules want: due or not, once each, and never what no rule says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.wrangler import (
    Action,
    Fact,
    MaxTaskRuntime,
    Rule,
    RunningAttempt,
    SpotToOnDemand,
    StalledUpload,
    SyncingJob,
    WaitingJob,
    evaluate,
)

NOW = 10_000_000


def did(actions: list[Action]) -> list[tuple[str, str, str]]:
    return [(a.rule, a.do, a.subject) for a in actions]


def test_a_task_that_runs_too_long_is_dealt_with_as_the_rule_says() -> None:
    late = RunningAttempt("j", 4, "att", NOW - 61_000)
    assert did(evaluate([late], [MaxTaskRuntime("r", 60, "kill")], NOW)) == [("r", "kill", "att")]
    assert evaluate([late], [MaxTaskRuntime("r", 61, "kill")], NOW) == []


def test_of_two_rules_that_would_end_an_attempt_the_shorter_one_does_and_a_notice_is_its_own() -> None:
    late = RunningAttempt("j", 4, "att", NOW - 100_000)
    mine: list[Rule] = [
        MaxTaskRuntime("long", 90, "kill"),
        MaxTaskRuntime("short", 60, "retry"),
        MaxTaskRuntime("tell", 30, "notify"),
    ]
    assert did(evaluate([late], mine, NOW)) == [("tell", "notify", "att"), ("short", "retry", "att")]


@pytest.mark.parametrize(
    ("priority", "waited", "goes"), [(80, 900, True), (79, 900, False), (80, 899, False), (100, 10**4, True)]
)
def test_a_job_goes_on_demand_after_its_wait_from_a_priority_upwards(
    priority: int, waited: int, goes: bool
) -> None:
    waiting = WaitingJob("j", priority, NOW - waited * 1000)
    made = evaluate([waiting], [SpotToOnDemand("r", 900, 80)], NOW)
    assert did(made) == ([("r", "on_demand", "market")] if goes else [])


def test_a_stalled_upload_is_reminded_of_then_failed() -> None:
    rule = StalledUpload("r", 60, 120)
    at = {s: did(evaluate([SyncingJob("j", 3, NOW - s * 1000)], [rule], NOW)) for s in (59, 60, 119, 120)}
    heard = NOW - 60_000
    assert at == {
        59: [],
        60: [("r", "remind", f"remind:{heard}")],
        119: [("r", "remind", f"remind:{NOW - 119_000}")],
        120: [("r", "fail", "fail")],
    }


FACTS = st.one_of(
    st.builds(
        RunningAttempt, st.sampled_from("ab"), st.integers(0, 9), st.sampled_from("xyz"), st.integers(0, NOW)
    ),
    st.builds(WaitingJob, st.sampled_from("ab"), st.integers(0, 100), st.integers(0, NOW)),
    st.builds(SyncingJob, st.sampled_from("ab"), st.integers(1, 9), st.integers(0, NOW)),
)
SECONDS = st.integers(1, NOW // 500)
RULES = st.one_of(
    st.builds(MaxTaskRuntime, st.sampled_from("123"), SECONDS, st.sampled_from(["kill", "retry", "notify"])),
    st.builds(SpotToOnDemand, st.sampled_from("456"), SECONDS, st.integers(0, 100)),
    st.builds(StalledUpload, st.sampled_from("789"), st.none() | SECONDS, st.none() | SECONDS),
)


@given(st.lists(FACTS, max_size=6), st.lists(RULES, max_size=5, unique_by=lambda r: r.id))
def test_what_was_done_is_not_done_again_and_an_attempt_is_ended_once(
    facts: list[Fact], mine: list[Rule]
) -> None:
    made = evaluate(facts, mine, NOW)
    done = {(a.rule, a.job, a.subject) for a in made}
    again = evaluate(facts, mine, NOW, done)
    assert not {(a.rule, a.job, a.subject) for a in again} & done
    ends = [(a.job, a.subject) for a in made if a.do in {"kill", "retry", "fail", "on_demand"}]
    assert len(ends) == len(set(ends))
    assert all(a.reason.endswith(".") for a in made)


@given(st.lists(FACTS, max_size=6), st.lists(RULES, max_size=5), st.integers(0, NOW))
def test_what_is_due_stays_due(facts: list[Fact], mine: list[Rule], later_ms: int) -> None:
    now = {(a.rule, a.job) for a in evaluate(facts, mine, NOW) if a.do == "fail"}
    assert now <= {(a.rule, a.job) for a in evaluate(facts, mine, NOW + later_ms)}
