"""Which nodes are set aside, on trial or in use: `(failures there, node's health, now) → node's health`.
Pure.

A node on which unlike jobs fail, with no success between, is set aside: no session starts there. Jobs with
the same scene file are alike. After a pause the node is on trial, with one session at a time: one committed
frame returns it to use, one more failure sets it aside for twice as long.

Failures that the node itself has confirmed (a full disk, for example) count by themselves. All others may be
the job's fault: such a failure counts only if the same scene was rendered on another node, while another node
is in use, and, on a farm with several accounts, only if two of them have such failures. A node that an
operator set aside stays so until the operator returns it. Described in docs/operator.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from framefarm.core.failure_codes import CAUSES, is_node_fault, may_be_node_fault

LONGEST_DOUBLING = 6
"""Most doublings of a node's pause: it is set aside for at most 2**6 times the first pause."""
AVOID_WINDOW_MS = 120_000
"""A job avoids a node because of its failures there within this time."""
SESSION_REASONS = {
    "not_started": "a session did not start",
    "runner_lost": "a session was lost",
    "runner_failed": "a session's runner failed",
}
"""End reasons of sessions that are no failure codes and may be the node's fault, with a sentence part for
each."""


class NodeState(StrEnum):
    IN_USE = "in_use"
    SET_ASIDE = "set_aside"
    ON_TRIAL = "on_trial"


@dataclass(frozen=True, slots=True)
class BadEnd:
    """A failed attempt, or a session that failed before its first attempt."""

    node: str
    account: str
    job: str
    at_ms: int
    reason: str
    """The attempt's failure code, or the session's end reason."""
    frames: int = 0
    """Frames that the attempt committed."""
    scene: str | None = None
    """The scene file's content; None if it is not known."""
    before_blender: bool = False
    """The session itself failed, before its Blender was started for the job."""

    @property
    def likeness(self) -> str:
        """Equal for jobs that may fail by the same fault of their own: resubmissions of one scene."""
        return self.scene or self.job

    @property
    def certain(self) -> bool:
        """Whether it is the fault of the node, whatever the scene is like."""
        code = self.reason.partition(":")[0]
        if code in SESSION_REASONS:
            return self.before_blender
        return is_node_fault(code)


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Health of one node, as stored. `until_ms`: when a node that is set aside goes on trial; None while set
    aside: when the operator returns it."""

    name: str
    standing: NodeState = NodeState.IN_USE
    since_ms: int = 0
    counted_from_ms: int = 0
    """Failures up to this time do not count."""
    until_ms: int | None = None
    times: int = 0
    """How often the node was set aside since its last success."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Failures of `jobs` unlike jobs within `window_ms` set a node aside, at first for `pause_ms`.

    `accounts`: number of accounts of the farm. With several, failures that the scenes may have caused count
    only if two accounts have them, so that one account's bad scenes take no node from the others.
    """

    jobs: int
    window_ms: int
    pause_ms: int
    accounts: int = 1


def is_evidence(ended: BadEnd) -> bool:
    """Whether a failure may count against its node. If the attempt committed a frame, it does so only with a
    failure code that names the node itself (a full disk, for example)."""
    code = ended.reason.partition(":")[0]
    if code in SESSION_REASONS:
        return ended.frames == 0
    return may_be_node_fault(code, committed=ended.frames > 0)


def suspicions(ended: Sequence[BadEnd]) -> list[BadEnd]:
    """Failures that may count against their node. Equal failures of like jobs on several nodes count against
    none."""
    nodes_of: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for end in ended:
        nodes_of[end.likeness, end.reason].add(end.node)
    return [e for e in ended if is_evidence(e) and len(nodes_of[e.likeness, e.reason]) == 1]


def evidence_by_node(
    ended: Sequence[BadEnd], rendered_on: Mapping[str, Collection[str]]
) -> dict[str, list[BadEnd]]:
    """Node → failures that count against it.

    `rendered_on`: job → nodes that committed frames of it, for the jobs of `suspicions` that are not certain.
    """
    nodes_of: defaultdict[str, set[str]] = defaultdict(set)
    for end in ended:
        nodes_of[end.likeness].update(rendered_on.get(end.job, ()))
    evidence: defaultdict[str, list[BadEnd]] = defaultdict(list)
    for end in suspicions(ended):
        if end.certain or nodes_of[end.likeness] - {end.node}:
            evidence[end.node].append(end)
    return dict(evidence)


def nodes_to_avoid(ended: Sequence[BadEnd], now_ms: int) -> dict[str, dict[str, tuple[int, str]]]:
    """Job → nodes that it avoids now, each with the end of the pause and a title of the failure.

    A job avoids a node on which its sessions failed by the node's fault, or before they opened the scene. The
    pause starts at a second and doubles with each failure, up to 32 seconds.
    """
    failures: defaultdict[tuple[str, str], list[BadEnd]] = defaultdict(list)
    for end in ended:
        code = end.reason.partition(":")[0]
        recent = end.at_ms > now_ms - AVOID_WINDOW_MS
        if recent and code != "machine_lost" and (code in SESSION_REASONS or is_node_fault(code)):
            failures[end.job, end.node].append(end)
    avoided: defaultdict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    for (job, node), bad_ends in failures.items():
        last = max(bad_ends, key=lambda e: e.at_ms)
        until_ms = last.at_ms + 1000 * 2 ** min(len(bad_ends) - 1, 5)
        if until_ms > now_ms:
            avoided[job][node] = until_ms, _title(last.reason)
    return dict(avoided)


def needs_last_success(
    node: NodeHealth, evidence: Sequence[BadEnd], limits: HealthLimits, *, only: bool
) -> bool:
    """Whether the result of `judge_node` depends on the node's last success, which is costly to query."""
    if node.standing is NodeState.ON_TRIAL:
        return True
    return (
        node.standing is NodeState.IN_USE
        and _job_count(_counting(node, evidence, limits, only)) >= limits.jobs
    )


def judge_node(
    node: NodeHealth,
    evidence: Sequence[BadEnd],
    good_ms: int | None,
    now_ms: int,
    limits: HealthLimits,
    *,
    only: bool,
) -> NodeHealth:
    """The node's health now.

    `evidence`: failures that count against it (`evidence_by_node`). `good_ms`: time of the last success
    there; may be None if `needs_last_success` is false. `only`: no other node is in use; failures that the
    scenes may have caused then do not count.
    """
    if node.standing is NodeState.SET_ASIDE:
        if node.until_ms is None or now_ms < node.until_ms:
            return node
        return replace(node, standing=NodeState.ON_TRIAL, since_ms=now_ms, counted_from_ms=now_ms)
    if good_ms is not None and good_ms > node.counted_from_ms:
        if node.standing is NodeState.ON_TRIAL:
            return returned(node, now_ms)
        node = replace(node, counted_from_ms=good_ms)
    enough = 1 if node.standing is NodeState.ON_TRIAL else limits.jobs
    counting = _counting(node, evidence, limits, only)
    if _job_count(counting) < enough:
        return node
    pause_ms = limits.pause_ms * 2 ** min(node.times, LONGEST_DOUBLING)
    return replace(
        node,
        standing=NodeState.SET_ASIDE,
        since_ms=now_ms,
        until_ms=now_ms + pause_ms,
        times=node.times + 1,
        reason=_reason(counting, on_trial=node.standing is NodeState.ON_TRIAL),
    )


def set_aside(node: NodeHealth, now_ms: int, reason: str) -> NodeHealth:
    """Health of a node that the operator set aside, until the operator returns it."""
    return replace(node, standing=NodeState.SET_ASIDE, since_ms=now_ms, until_ms=None, reason=reason)


def returned(node: NodeHealth, now_ms: int) -> NodeHealth:
    """Health of a node that is in use again; its earlier failures do not count."""
    return NodeHealth(node.name, NodeState.IN_USE, since_ms=now_ms, counted_from_ms=now_ms)


def _counting(node: NodeHealth, evidence: Sequence[BadEnd], limits: HealthLimits, only: bool) -> list[BadEnd]:
    recent = [end for end in evidence if end.at_ms > node.counted_from_ms]
    accounts = {end.account for end in recent if not end.certain}
    if only or (limits.accounts > 1 and len(accounts) < 2):
        return [end for end in recent if end.certain]
    return recent


def _job_count(bad_ends: Sequence[BadEnd]) -> int:
    """Number of unlike jobs."""
    return len({end.likeness for end in bad_ends})


def _reason(bad_ends: Sequence[BadEnd], *, on_trial: bool) -> str:
    words = Counter(_title(end.reason) for end in bad_ends)
    what = ", ".join(f"{word} ({number})" for word, number in words.most_common(4))
    if on_trial:
        return f"It was tried again and failed: {what}."
    return f"{_job_count(bad_ends)} unlike jobs failed on it, with no success between: {what}."


def _title(reason: str) -> str:
    code = reason.partition(":")[0]
    cause = CAUSES.get(code)
    if cause is not None and code not in SESSION_REASONS:
        return cause.title
    return SESSION_REASONS.get(code, code)
