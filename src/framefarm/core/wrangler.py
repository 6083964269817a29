"""Actions that an account's wrangler rules require: `(facts, rules, now) → actions`. Pure.

A rule acts once on each subject (an attempt, one wait, one stalled upload). Callers pass enabled rules only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

OnRuntime = Literal["kill", "retry", "notify"]


@dataclass(frozen=True, slots=True)
class MaxTaskRuntime:
    """Limit on an attempt's run time. `kill` fails the task for good, `retry` counts a failure and retries
    while the job's `task_retries` remain, `notify` warns."""

    id: str
    seconds: int
    action: OnRuntime


@dataclass(frozen=True, slots=True)
class SpotToOnDemand:
    """Move a preemptible job of at least this priority to on-demand nodes after it waited `wait_seconds`."""

    id: str
    wait_seconds: int
    min_priority: int


@dataclass(frozen=True, slots=True)
class StalledUpload:
    """Remind of missing files that stopped arriving, and fail the job later. None: no reminder, or no
    failure."""

    id: str
    remind_after_seconds: int | None
    fail_after_seconds: int | None


Rule = MaxTaskRuntime | SpotToOnDemand | StalledUpload


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt in work."""

    job: str
    task: int
    attempt: str
    started_ms: int


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A preemptible job with tasks to assign and without a session, since `since_ms`."""

    job: str
    priority: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class SyncingJob:
    """A job that waits for `missing` files; the last upload activity was at `heard_ms`."""

    job: str
    missing: int
    heard_ms: int


Fact = RunningAttempt | WaitingJob | SyncingJob
ActionName = Literal["kill", "retry", "notify", "on_demand", "remind", "fail"]


@dataclass(frozen=True, slots=True)
class Action:
    """One action on a job, taken once for each `rule` and `subject`. `reason` is one sentence for people."""

    rule: str
    do: ActionName
    job: str
    subject: str
    reason: str
    task: int | None = None
    attempt: str | None = None


def evaluate(
    facts: Iterable[Fact], rules: Sequence[Rule], now_ms: int, done: Collection[tuple[str, str, str]] = ()
) -> list[Action]:
    """Actions that are due now. `done`: (rule, job, subject) of earlier actions.

    If several rules would end the same attempt, only the one with the shortest time acts.
    """
    due: list[Action] = []
    ended: set[tuple[str, str]] = set()
    for fact in facts:
        for rule in sorted(rules, key=_time_limit):
            for action in _due(fact, rule, now_ms):
                if (action.rule, action.job, action.subject) in done:
                    continue
                key = (action.job, action.subject)
                if action.do in {"kill", "retry", "fail", "on_demand"}:
                    if key in ended:
                        continue
                    ended.add(key)
                due.append(action)
    return due


def _time_limit(rule: Rule) -> tuple[int, str]:
    if isinstance(rule, MaxTaskRuntime):
        return rule.seconds, rule.id
    if isinstance(rule, SpotToOnDemand):
        return rule.wait_seconds, rule.id
    return rule.fail_after_seconds or rule.remind_after_seconds or 0, rule.id


def _due(fact: Fact, rule: Rule, now_ms: int) -> Iterator[Action]:
    if isinstance(fact, RunningAttempt) and isinstance(rule, MaxTaskRuntime):
        if now_ms - fact.started_ms > rule.seconds * 1000:
            yield Action(
                rule.id, rule.action, fact.job, fact.attempt,
                f"Task {fact.task:03d} ran longer than the {rule.seconds} seconds that a rule of the account"
                " allows.",
                fact.task, fact.attempt,
            )  # fmt: skip
    elif isinstance(fact, WaitingJob) and isinstance(rule, SpotToOnDemand):
        if now_ms - fact.since_ms >= rule.wait_seconds * 1000 and fact.priority >= rule.min_priority:
            text = f"It waited {rule.wait_seconds} seconds for a preemptible machine and is now on demand."
            yield Action(rule.id, "on_demand", fact.job, "market", text)
    elif isinstance(fact, SyncingJob) and isinstance(rule, StalledUpload):
        silent_ms = now_ms - fact.heard_ms
        missing = f"{fact.missing} of its files are still missing"
        if rule.fail_after_seconds is not None and silent_ms >= rule.fail_after_seconds * 1000:
            text = f"No file of this job arrived for {rule.fail_after_seconds} seconds, and {missing}."
            yield Action(rule.id, "fail", fact.job, "fail", text)
        elif rule.remind_after_seconds is not None and silent_ms >= rule.remind_after_seconds * 1000:
            text = f"No file of this job arrived for {rule.remind_after_seconds} seconds, and {missing}."
            yield Action(rule.id, "remind", fact.job, f"remind:{fact.heard_ms}", text)
