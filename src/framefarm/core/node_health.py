"""Which machines may have sessions: `(how work ended there, where it stands, now) → where it stands`. Pure.

A machine on which different jobs fail, with no success between, is set aside: no session starts there. After
a pause it is on trial, with one session at a time: one frame there returns it, one more failure sets it aside
for twice as long. What may be the scenes' fault (a crash, say) counts only where another machine is in use,
and if the farm has several accounts, only where two of them have it. What an operator set aside stays so
until they return it. Described in docs/operator.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from framefarm.core.failure_codes import CAUSES, Fault, is_machines, may_be_the_machine

LONGEST_DOUBLING = 6
"""A pause is at most 2 ** 6 times the first one."""
AVOID_WINDOW_MS = 120_000
"""What befell a job on a machine longer ago is forgotten when the job may use it again."""
SESSION_REASONS = {
    "not_started": "a session did not start",
    "runner_lost": "a session was lost",
    "runner_failed": "a session's runner failed",
}
"""Ends of sessions that are no causes of attempts, and may be the machine's."""


class NodeState(StrEnum):
    IN_USE = "in_use"
    SET_ASIDE = "set_aside"
    ON_TRIAL = "on_trial"


@dataclass(frozen=True, slots=True)
class BadEnd:
    """An attempt, or a session before its first one, that ended badly."""

    node: str
    account: str
    job: str
    at_ms: int
    reason: str
    """The attempt's cause, or the session's end."""
    frames: int = 0
    """What it committed before."""

    @property
    def certain(self) -> bool:
        """Whether it speaks against the machine by itself, whatever the scenes are like."""
        code = self.reason.partition(":")[0]
        fault = CAUSES[code].fault if code in CAUSES else None
        by_farm = fault in {Fault.MACHINE, Fault.FARM} and code != "killed_outside"  # a script can do that
        return code in SESSION_REASONS or by_farm


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Where a machine stands. `until_ms`: when it is tried again; None while set aside: by a person."""

    name: str
    standing: NodeState = NodeState.IN_USE
    since_ms: int = 0
    counted_from_ms: int = 0
    """What ended before counts no more."""
    until_ms: int | None = None
    times: int = 0
    """How often it was set aside without a success since."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """`jobs` different jobs within `window_ms` set a machine aside, first for `pause_ms`.

    Of several `accounts`, failures that the scenes may have caused count only where two have them: no account
    takes machines from the others with bad scenes of its own.
    """

    jobs: int
    window_ms: int
    pause_ms: int
    accounts: int = 1


def counts(ended: BadEnd) -> bool:
    """Whether it may speak against the machine. One that committed a frame does only where the cause names
    the machine itself: a full disk, say."""
    code = ended.reason.partition(":")[0]
    if code in SESSION_REASONS:
        return ended.frames == 0
    return may_be_the_machine(code, committed=ended.frames > 0)


def against(ended: Sequence[BadEnd]) -> dict[str, list[BadEnd]]:
    """Machine → what speaks against it. What befell the same job alike on another machine is the job's."""
    alike: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for one in ended:
        alike[one.job, one.reason].add(one.node)
    found: defaultdict[str, list[BadEnd]] = defaultdict(list)
    for one in ended:
        if counts(one) and len(alike[one.job, one.reason]) == 1:
            found[one.node].append(one)
    return dict(found)


def avoided(ended: Sequence[BadEnd], now_ms: int) -> dict[str, dict[str, tuple[int, str]]]:
    """Job → machines that it does not use now, each with until when, and what happened there: its sessions
    ended by the machine's own fault, or before they got to the scene. The pause doubles each time."""
    tries: defaultdict[tuple[str, str], list[BadEnd]] = defaultdict(list)
    for one in ended:
        code = one.reason.partition(":")[0]
        recent = one.at_ms > now_ms - AVOID_WINDOW_MS
        if recent and code != "machine_lost" and (code in SESSION_REASONS or is_machines(code)):
            tries[one.job, one.node].append(one)
    found: defaultdict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    for (job, node), mine in tries.items():
        last = max(mine, key=lambda e: e.at_ms)
        until_ms = last.at_ms + 1000 * 2 ** min(len(mine) - 1, 5)
        if until_ms > now_ms:
            found[job][node] = until_ms, _word(last.reason)
    return dict(found)


def suspect(node: NodeHealth, found: Sequence[BadEnd], limits: HealthLimits, *, only: bool) -> bool:
    """Whether `judge` would act on these if nothing has succeeded there: only then is that worth a look."""
    if node.standing is NodeState.ON_TRIAL:
        return True
    return node.standing is NodeState.IN_USE and _jobs(_speaking(node, found, limits, only)) >= limits.jobs


def judge(
    node: NodeHealth,
    found: Sequence[BadEnd],
    good_ms: int | None,
    now_ms: int,
    limits: HealthLimits,
    *,
    only: bool,
) -> NodeHealth:
    """Where the machine stands now. `found`: what speaks against it; `good_ms`: when something last succeeded
    there, if `suspect` asked for it; `only`: no other machine is in use, so that what may be the scenes'
    fault is no reason to do without it."""
    if node.standing is NodeState.SET_ASIDE:
        if node.until_ms is None or now_ms < node.until_ms:
            return node
        return replace(node, standing=NodeState.ON_TRIAL, since_ms=now_ms, counted_from_ms=now_ms)
    if good_ms is not None and good_ms > node.counted_from_ms:
        if node.standing is NodeState.ON_TRIAL:
            return returned(node, now_ms)
        node = replace(node, counted_from_ms=good_ms)
    enough = 1 if node.standing is NodeState.ON_TRIAL else limits.jobs
    late = _speaking(node, found, limits, only)
    if _jobs(late) < enough:
        return node
    pause_ms = limits.pause_ms * 2 ** min(node.times, LONGEST_DOUBLING)
    return replace(
        node,
        standing=NodeState.SET_ASIDE,
        since_ms=now_ms,
        until_ms=now_ms + pause_ms,
        times=node.times + 1,
        reason=_reason(late, tried=node.standing is NodeState.ON_TRIAL),
    )


def set_aside(node: NodeHealth, now_ms: int, reason: str) -> NodeHealth:
    """By a person: until they return it."""
    return replace(node, standing=NodeState.SET_ASIDE, since_ms=now_ms, until_ms=None, reason=reason)


def returned(node: NodeHealth, now_ms: int) -> NodeHealth:
    """It is in use again, and what was is forgotten."""
    return NodeHealth(node.name, NodeState.IN_USE, since_ms=now_ms, counted_from_ms=now_ms)


def _speaking(node: NodeHealth, found: Sequence[BadEnd], limits: HealthLimits, only: bool) -> list[BadEnd]:
    late = [one for one in found if one.at_ms > node.counted_from_ms]
    accounts = {one.account for one in late if not one.certain}
    if only or (limits.accounts > 1 and len(accounts) < 2):
        return [one for one in late if one.certain]
    return late


def _jobs(found: Sequence[BadEnd]) -> int:
    return len({one.job for one in found})


def _reason(found: Sequence[BadEnd], *, tried: bool) -> str:
    words = Counter(_word(one.reason) for one in found)
    what = ", ".join(f"{word} ({number})" for word, number in words.most_common(4))
    if tried:
        return f"It was tried again and failed: {what}."
    jobs = len({one.job for one in found})
    return f"{jobs} different jobs failed on it, with no success between: {what}."


def _word(reason: str) -> str:
    code = reason.partition(":")[0]
    cause = CAUSES.get(code)
    if cause is not None and code not in SESSION_REASONS:
        return cause.title
    return SESSION_REASONS.get(code, code)


# -------------------------------------------------------------------- machines about to be taken


@dataclass(frozen=True, slots=True)
class Departure:
    """What a session on a machine about to be taken does. `preempt_until_ms` None: it drains, that is ends
    its tasks; else it ends its frame in work and is killed then."""

    preempt_until_ms: int | None


def leave(deadline_ms: int, now_ms: int, *, grace_ms: int, stop_ms: int) -> Departure:
    """`stop_ms`: what the engine may take to end a session that does not go, before the deadline."""
    until_ms = max(now_ms, deadline_ms - stop_ms)
    return Departure(until_ms if now_ms >= until_ms - grace_ms else None)


def next_leave_ms(deadline_ms: int, now_ms: int, *, grace_ms: int, stop_ms: int) -> int | None:
    """When `leave` changes its answer; None: not any more."""
    at = deadline_ms - stop_ms - grace_ms
    return at if at > now_ms else None
