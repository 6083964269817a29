"""What an account's standing rules want done: `(facts, rules, now) → actions`. Pure.

A rule acts once on each subject (an attempt, one wait, one stalled upload); `done` is what was acted on
before. A rule that an account switched off is not passed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

OnRuntime = Literal["kill", "retry", "notify"]


@dataclass(frozen=True, slots=True)
class MaxTaskRuntime:
    """A try of a task that runs longer: `kill` fails the task for good, `retry` counts it as a failure and
    tries again while the job's `task_retries` last, `notify` warns."""

    id: str
    seconds: int
    action: OnRuntime


@dataclass(frozen=True, slots=True)
class SpotToOnDemand:
    """A preemptible job of at least this priority that has waited so long for a machine goes on demand."""

    id: str
    wait_seconds: int
    min_priority: int


@dataclass(frozen=True, slots=True)
class StalledUpload:
    """A job whose missing files stopped coming: remind, and fail it in the end; None: not that one."""

    id: str
    remind_after_seconds: int | None
    fail_after_seconds: int | None


Rule = MaxTaskRuntime | SpotToOnDemand | StalledUpload


@dataclass(frozen=True, slots=True)
class Running:
    """A try of a task in work."""

    job: str
    task: int
    attempt: str
    started_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A preemptible job with tasks to hand out and no session, since `since_ms`."""

    job: str
    priority: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Syncing:
    """A job that waits for `missing` files; the last sign of an upload was at `heard_ms`."""

    job: str
    missing: int
    heard_ms: int


Fact = Running | Waiting | Syncing
Do = Literal["kill", "retry", "notify", "on_demand", "remind", "fail"]


@dataclass(frozen=True, slots=True)
class Action:
    """`subject` and `rule` together are done once. `reason` is one sentence for people."""

    rule: str
    do: Do
    job: str
    subject: str
    reason: str
    task: int | None = None
    attempt: str | None = None


def evaluate(
    facts: Iterable[Fact], rules: Sequence[Rule], now_ms: int, done: Collection[tuple[str, str, str]] = ()
) -> list[Action]:
    """What is due now. `done`: (rule, job, subject) of what was done before. Of several rules that would end
    the same attempt, the strictest in time does; an attempt is ended once."""
    due: list[Action] = []
    ended: set[tuple[str, str]] = set()
    for fact in facts:
        for rule in sorted(rules, key=_patience):
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


def _patience(rule: Rule) -> tuple[int, str]:
    if isinstance(rule, MaxTaskRuntime):
        return rule.seconds, rule.id
    if isinstance(rule, SpotToOnDemand):
        return rule.wait_seconds, rule.id
    return rule.fail_after_seconds or rule.remind_after_seconds or 0, rule.id


def _due(fact: Fact, rule: Rule, now_ms: int) -> Iterator[Action]:
    if isinstance(fact, Running) and isinstance(rule, MaxTaskRuntime):
        if now_ms - fact.started_ms > rule.seconds * 1000:
            yield Action(
                rule.id, rule.action, fact.job, fact.attempt,
                f"Task {fact.task:03d} ran longer than the {rule.seconds} seconds that a rule of the account"
                " allows.",
                fact.task, fact.attempt,
            )  # fmt: skip
    elif isinstance(fact, Waiting) and isinstance(rule, SpotToOnDemand):
        if now_ms - fact.since_ms >= rule.wait_seconds * 1000 and fact.priority >= rule.min_priority:
            text = f"It waited {rule.wait_seconds} seconds for a preemptible machine: it goes on demand."
            yield Action(rule.id, "on_demand", fact.job, "market", text)
    elif isinstance(fact, Syncing) and isinstance(rule, StalledUpload):
        still = now_ms - fact.heard_ms
        left = f"{fact.missing} of its files are still missing"
        if rule.fail_after_seconds is not None and still >= rule.fail_after_seconds * 1000:
            text = f"No file of this job arrived for {rule.fail_after_seconds} seconds, and {left}."
            yield Action(rule.id, "fail", fact.job, "fail", text)
        elif rule.remind_after_seconds is not None and still >= rule.remind_after_seconds * 1000:
            text = f"No file of this job arrived for {rule.remind_after_seconds} seconds, and {left}."
            yield Action(rule.id, "remind", fact.job, f"remind:{fact.heard_ms}", text)
