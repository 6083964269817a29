"""Actions of wrangler rules: due in time, once each, and none without a rule."""

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


def test_actions_name_their_job_task_and_attempt_and_a_reason() -> None:
    late = RunningAttempt("j", 4, "att", NOW - 61_000)
    assert evaluate([late], [MaxTaskRuntime("r", 60, "retry")], NOW) == [
        Action(
            "r", "retry", "j", "att",
            "Task 004 ran longer than the 60 seconds that a rule of the account allows.", 4, "att",
        )
    ]  # fmt: skip
    assert evaluate([WaitingJob("j", 50, NOW - 7000)], [SpotToOnDemand("r", 7, 50)], NOW) == [
        Action(
            "r", "on_demand", "j", "market",
            "It waited 7 seconds for a preemptible machine and is now on demand.",
        )
    ]  # fmt: skip
    upload = SyncingJob("j", 3, NOW - 9000)
    assert evaluate([upload], [StalledUpload("r", 8, 9)], NOW) == [
        Action(
            "r", "fail", "j", "fail",
            "No file of this job arrived for 9 seconds, and 3 of its files are still missing.",
        )
    ]  # fmt: skip
    assert evaluate([upload], [StalledUpload("r", 8, 10)], NOW) == [
        Action(
            "r", "remind", "j", f"remind:{NOW - 9000}",
            "No file of this job arrived for 8 seconds, and 3 of its files are still missing.",
        )
    ]  # fmt: skip


def test_a_rule_acts_only_after_its_time_to_the_millisecond() -> None:
    def count(fact: Fact, rule: Rule) -> int:
        return len(evaluate([fact], [rule], NOW))

    runtime = MaxTaskRuntime("r", 60, "kill")
    assert [count(RunningAttempt("j", 1, "a", NOW - ms), runtime) for ms in (0, 60_000, 60_001)] == [0, 0, 1]
    spot = SpotToOnDemand("r", 60, 50)
    assert [count(WaitingJob("j", 50, NOW - ms), spot) for ms in (0, 59_999, 60_000)] == [0, 0, 1]
    for upload in (StalledUpload("r", 60, None), StalledUpload("r", None, 60)):
        assert [count(SyncingJob("j", 1, NOW - ms), upload) for ms in (0, 59_999, 60_000)] == [0, 0, 1]
    assert count(SyncingJob("j", 1, 0), StalledUpload("r", None, None)) == 0


def test_rules_act_on_facts_of_their_own_sort_only() -> None:
    facts: list[Fact] = [RunningAttempt("a", 1, "x", 0), WaitingJob("b", 99, 0), SyncingJob("c", 1, 0)]
    rules: list[Rule] = [MaxTaskRuntime("1", 1, "kill"), SpotToOnDemand("2", 1, 0), StalledUpload("3", 1, 2)]
    acted = [(a.rule, a.job) for a in evaluate(facts, rules, NOW)]
    assert acted == [("1", "a"), ("2", "b"), ("3", "c")]
    assert [evaluate(facts, [rule], NOW)[0].job for rule in rules] == ["a", "b", "c"]


def test_every_late_attempt_and_every_stalled_job_is_ended() -> None:
    attempts = [RunningAttempt("j", task, name, 0) for task, name in enumerate("xyz")]
    acted = evaluate(attempts, [MaxTaskRuntime("r", 60, "kill")], NOW)
    assert [(a.job, a.attempt) for a in acted] == [("j", "x"), ("j", "y"), ("j", "z")]
    uploads = [SyncingJob(name, 1, 0) for name in "jkl"]
    acted = evaluate(uploads, [StalledUpload("r", None, 60)], NOW)
    assert [(a.job, a.do) for a in acted] == [("j", "fail"), ("k", "fail"), ("l", "fail")]


def test_an_action_done_before_is_not_due_again_while_others_are() -> None:
    late = [RunningAttempt("j", 4, "att", 0), RunningAttempt("k", 4, "att", 0)]
    rules: list[Rule] = [MaxTaskRuntime("r", 60, "notify"), MaxTaskRuntime("s", 60, "notify")]
    left = evaluate(late, rules, NOW, [("r", "j", "att")])
    assert [(a.rule, a.job) for a in left] == [("s", "j"), ("r", "k"), ("s", "k")]


@pytest.mark.parametrize(
    ("fact", "rules", "acts"),
    [
        (WaitingJob("j", 9, 0), [SpotToOnDemand("long", 9, 0), SpotToOnDemand("short", 8, 0)], "short"),
        (WaitingJob("j", 9, 0), [SpotToOnDemand("b", 9, 0), SpotToOnDemand("a", 9, 0)], "a"),
        (SyncingJob("j", 9, 0), [StalledUpload("long", 1, 9), StalledUpload("short", 2, 8)], "short"),
        (SyncingJob("j", 9, 0), [StalledUpload("b", None, 9), StalledUpload("a", None, 9)], "a"),
        (
            RunningAttempt("j", 1, "x", 0),
            [MaxTaskRuntime("b", 9, "kill"), MaxTaskRuntime("a", 9, "retry")],
            "a",
        ),
    ],
)
def test_of_several_rules_that_end_the_same_the_strictest_acts_then_the_first_by_id(
    fact: Fact, rules: list[Rule], acts: str
) -> None:
    assert [a.rule for a in evaluate([fact], rules, NOW)] == [acts]


def test_reminders_are_ordered_by_their_time() -> None:
    rules: list[Rule] = [
        StalledUpload("c", 9, None),
        StalledUpload("b", 8, None),
        StalledUpload("a", None, 9),
    ]
    acted = [a.rule for a in evaluate([SyncingJob("j", 9, 0)], rules, NOW)]
    assert acted == ["b", "a", "c"]


def test_of_two_rules_that_would_end_an_attempt_the_shorter_one_does_and_a_notice_is_added() -> None:
    late = RunningAttempt("j", 4, "att", NOW - 100_000)
    rules: list[Rule] = [
        MaxTaskRuntime("long", 90, "kill"),
        MaxTaskRuntime("short", 60, "retry"),
        MaxTaskRuntime("tell", 30, "notify"),
    ]
    assert did(evaluate([late], rules, NOW)) == [("tell", "notify", "att"), ("short", "retry", "att")]


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
def test_an_action_is_not_repeated_and_an_attempt_is_ended_once(facts: list[Fact], rules: list[Rule]) -> None:
    made = evaluate(facts, rules, NOW)
    done = {(a.rule, a.job, a.subject) for a in made}
    again = evaluate(facts, rules, NOW, done)
    assert not {(a.rule, a.job, a.subject) for a in again} & done
    ends = [(a.job, a.subject) for a in made if a.do in {"kill", "retry", "fail", "on_demand"}]
    assert len(ends) == len(set(ends))
    assert all(a.reason.endswith(".") for a in made)


@given(st.lists(FACTS, max_size=6), st.lists(RULES, max_size=5), st.integers(0, NOW))
def test_a_due_failure_stays_due(facts: list[Fact], rules: list[Rule], later_ms: int) -> None:
    now = {(a.rule, a.job) for a in evaluate(facts, rules, NOW) if a.do == "fail"}
    assert now <= {(a.rule, a.job) for a in evaluate(facts, rules, NOW + later_ms)}
