"""The states of jobs, tasks and sessions, as tables of cases."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core import job as rules
from framefarm.core import session_lease, task_outcomes
from framefarm.core.job import Change, JobFacts, TaskStatus, job_status
from framefarm.core.session_lease import SessionEvent, SessionState
from framefarm.core.task_assignment import batch_size
from framefarm.core.task_outcomes import Outcome, TaskFacts

NEW = JobFacts(
    next=0, task_count=10, scout_count=0, holds=frozenset(), gate_open=False, missing=0, scene_read=True,
    depends_left=0, cancel_asked=False, failed=False, pending=0, running=0, success=0, failures=0,
    preempted=0, scouts_ended=0, unpublished=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "pending"),
        ({"missing": 2}, "syncing"),
        ({"missing": 2, "holds": frozenset({"user"})}, "holding"),
        ({"next": 1, "running": 1}, "running"),
        ({"next": 10, "success": 10}, "success"),
        ({"next": 10, "success": 10, "unpublished": 1}, "running"),
        ({"next": 10, "success": 9, "failures": 1}, "failed"),
        ({"next": 10, "success": 9, "preempted": 1}, "failed"),
        ({"next": 10, "success": 9, "pending": 1}, "running"),
        ({"next": 10, "success": 10, "unpublished": 1, "holds": frozenset({"user"})}, "running"),
        ({"next": 10, "success": 9, "running": 1}, "running"),
        ({"next": 10, "success": 9, "failures": 1, "unpublished": 1}, "failed"),
        ({"next": 1, "pending": 1}, "pending"),
        ({"next": 1, "success": 1}, "running"),
        ({"next": 1, "failures": 1}, "running"),
        ({"next": 1, "preempted": 1}, "running"),
        ({"next": 1, "success": 1, "missing": 1}, "syncing"),
        ({"next": 1, "running": 1, "holds": frozenset({"rule"})}, "holding"),
        ({"task_count": None}, "pending"),
        ({"task_count": None, "scene_read": False, "missing": 1}, "syncing"),
        ({"cancel_asked": True, "running": 1}, "cancelling"),
        ({"cancel_asked": True, "unpublished": 1}, "cancelling"),
        ({"cancel_asked": True}, "cancelled"),
        ({"cancel_asked": True, "failed": True}, "cancelled"),
        ({"failed": True}, "failed"),
        ({"failed": True, "running": 1}, "running"),
        ({"scout_count": 3, "next": 3, "success": 2, "pending": 1, "scouts_ended": 3}, "running"),
        ({"scout_count": 3, "next": 3, "success": 2, "running": 1, "scouts_ended": 3}, "running"),
        ({"scout_count": 3, "next": 3, "success": 3, "scouts_ended": 3}, "holding"),
        ({"scout_count": 3, "next": 3, "success": 2, "failures": 1, "scouts_ended": 3}, "holding"),
        ({"scout_count": 3, "next": 3, "success": 3, "scouts_ended": 3, "gate_open": True}, "running"),
        ({"scout_count": 10, "next": 10, "success": 10, "scouts_ended": 10}, "success"),
    ],
)
def test_a_jobs_status_follows_from_its_facts(change: dict[str, Any], status: str) -> None:
    assert job_status(replace(NEW, **change)) == status


BLOCKERS: list[dict[str, Any]] = [
    {"scene_read": False},
    {"holds": frozenset({"rule"})},
    {"missing": 1},
    {"depends_left": 1},
    {"cancel_asked": True},
    {"failed": True},
    {"task_count": None},
]


@pytest.mark.parametrize("change", BLOCKERS, ids=lambda change: next(iter(change)))
def test_a_single_blocker_keeps_every_task_from_starting(change: dict[str, Any]) -> None:
    ready_job = replace(NEW, next=1, pending=1)
    assert (ready_job.may_start, ready_job.ready) == (True, 10)
    blocked = replace(ready_job, **change)
    assert (blocked.may_start, blocked.ready) == (False, 0)
    ended = "cancel_asked" in change or "failed" in change
    assert rules.untouched_status(blocked, 1) is (TaskStatus.CANCELLED if ended else TaskStatus.WAITING)


def test_the_scout_gate_hides_the_rest() -> None:
    scouts = replace(NEW, scout_count=3)
    assert scouts.ready == 3
    assert rules.untouched_status(scouts, 2) is TaskStatus.PENDING
    assert rules.untouched_status(scouts, 3) is TaskStatus.WAITING
    assert rules.untouched_status(scouts, 9) is TaskStatus.WAITING
    assert replace(scouts, gate_open=True).ready == 10


@pytest.mark.parametrize(
    ("change", "limit", "ready"),
    [
        ({"next": 4, "pending": 2}, 10, 8),
        ({"next": 10, "pending": 2}, 10, 2),
        ({"next": 9, "running": 9}, 10, 1),
        ({"scout_count": 1}, 1, 1),
        ({"scout_count": 3, "next": 2}, 3, 1),
        ({"scout_count": 3, "next": 3, "pending": 1}, 3, 1),
        ({"scout_count": 3, "next": 5, "pending": 1}, 3, 1),
        ({"scout_count": 3, "next": 5, "pending": 1, "gate_open": True}, 10, 6),
        ({"task_count": None, "scout_count": 3}, 0, 0),
    ],
)
def test_ready_tasks_are_the_pending_ones_and_the_untouched_ones_below_the_gate(
    change: dict[str, Any], limit: int, ready: int
) -> None:
    job = replace(NEW, **change)
    assert (job.limit, job.ready) == (limit, ready)


def test_a_job_without_known_frames_has_no_untouched_tasks() -> None:
    assert replace(NEW, next=4).untouched == 6
    assert replace(NEW, task_count=None).untouched == 0


@pytest.mark.parametrize(
    ("change", "closed"),
    [
        ({}, True),
        ({"gate_open": True}, False),
        ({"scouts_ended": 0}, False),
        ({"task_count": None}, False),
        ({"task_count": 1}, False),
        ({"task_count": 0}, False),
        ({"scout_count": 0, "scouts_ended": 0}, False),
    ],
)
def test_the_gate_is_closed_once_all_scouts_ended_and_more_tasks_follow(
    change: dict[str, Any], closed: bool
) -> None:
    job = replace(NEW, **{"scout_count": 1, "next": 1, "success": 1, "scouts_ended": 1} | change)
    assert job.scouts_closed == closed
    assert rules.hold_reasons(job) == (["scouts"] if closed else [])


def test_hold_reasons_are_the_sorted_holds_and_the_closed_gate() -> None:
    held = replace(NEW, holds=frozenset({"user", "budget", "rule", "dependency"}))
    assert rules.hold_reasons(held) == ["budget", "dependency", "rule", "user"]
    gated = replace(held, scout_count=1, next=1, success=1, scouts_ended=1)
    assert rules.hold_reasons(gated) == ["budget", "dependency", "rule", "user", "scouts"]


@pytest.mark.parametrize("change", [{"next": 10, "success": 10}, {"next": 10, "failures": 10}])
def test_a_finished_job_refuses_every_action(change: dict[str, Any]) -> None:
    job = replace(NEW, **change)
    for action in (rules.hold, rules.unhold, rules.cancel):
        with pytest.raises(rules.Refused, match=f"The job is {job_status(job)};"):
            action(job)


@pytest.mark.parametrize(("running", "status"), [(0, "cancelled"), (1, "cancelling")])
def test_a_cancelled_job_can_only_be_cancelled_again(running: int, status: str) -> None:
    job = replace(NEW, cancel_asked=True, running=running, holds=frozenset({"user"}), gate_open=True)
    for action in (rules.hold, rules.unhold):
        with pytest.raises(rules.Refused, match=f"The job is {status};"):
            action(job)
    assert rules.cancel(job) == rules.cancel(replace(job, cancel_asked=False))


@given(st.frozensets(st.sampled_from(rules.HOLDS)), st.booleans(), st.sampled_from(rules.HOLDS))
def test_holding_and_lifting_change_one_hold_and_nothing_else(
    holds: frozenset[str], gate_open: bool, hold: rules.Hold
) -> None:
    job = replace(NEW, scout_count=3, holds=holds, gate_open=gate_open)
    assert rules.hold(job) == Change(holds | {"user"}, gate_open, cancel=False, stop=False)
    assert rules.hold(job, by=hold) == Change(holds | {hold}, gate_open, cancel=False, stop=False)
    assert rules.hold(job, drain=False) == Change(holds | {"user"}, gate_open, cancel=False, stop=True)
    assert rules.lift(job, hold) == Change(holds - {hold}, gate_open, cancel=False, stop=False)
    assert rules.cancel(job) == Change(holds, gate_open, cancel=True, stop=True)


@given(st.frozensets(st.sampled_from(["user", "rule", "dependency"]), min_size=1), st.booleans())
def test_unhold_lifts_every_hold_but_a_budgets_and_leaves_the_gate(
    holds: frozenset[str], gate_open: bool
) -> None:
    job = replace(NEW, scout_count=3, holds=holds, gate_open=gate_open)
    assert rules.unhold(job) == Change(frozenset(), gate_open, cancel=False, stop=False)


def test_unhold_lifts_holds_first_and_opens_the_gate_next() -> None:
    held = replace(NEW, scout_count=3, holds=frozenset({"user", "dependency"}))
    once = rules.unhold(held)
    assert (once.holds, once.gate_open) == (frozenset(), False)
    assert rules.unhold(replace(held, holds=once.holds)) == Change(frozenset(), True)


def test_a_budgets_hold_is_not_lifted_by_a_person() -> None:
    with pytest.raises(rules.Refused, match="budget"):
        rules.unhold(replace(NEW, holds=frozenset({"budget", "user"})))


RUNNING = TaskFacts(TaskStatus.RUNNING, 0, 0, 0, preemptible_retries=1, task_retries=2)


@pytest.mark.parametrize(
    ("task", "outcome", "committed", "status"),
    [
        (RUNNING, Outcome.SUCCESS, 1, "success"),
        (RUNNING, Outcome.FAILED, 0, "pending"),
        (replace(RUNNING, failures=2), Outcome.FAILED, 0, "failed"),
        (replace(RUNNING, failures=2), Outcome.PREEMPTED, 0, "pending"),
        (replace(RUNNING, preemptions=1), Outcome.PREEMPTED, 0, "preempted"),
        (replace(RUNNING, preemptions=1), Outcome.PREEMPTED, 1, "pending"),
        (replace(RUNNING, preemptible_retries=0), Outcome.PREEMPTED, 5, "preempted"),
        (replace(RUNNING, failures=2, preemptions=1), Outcome.LOST, 0, "pending"),
        (replace(RUNNING, losses=task_outcomes.FARM_LOSSES), Outcome.LOST, 0, "failed"),
        (RUNNING, Outcome.CANCELLED, 0, "cancelled"),
    ],
)
def test_failures_preemptions_and_losses_are_counted_apart(
    task: TaskFacts, outcome: Outcome, committed: int, status: str
) -> None:
    assert task_outcomes.task_after(task, outcome, committed_frames=committed).status == status


@pytest.mark.parametrize("outcome", Outcome)
def test_in_a_preempted_session_lost_and_given_up_work_counts_as_preempted(outcome: Outcome) -> None:
    def seen(*, preempted: bool, withdrawn: bool) -> Outcome:
        return task_outcomes.outcome_of(outcome, preempted=preempted, withdrawn=withdrawn)

    assert seen(preempted=False, withdrawn=False) is outcome
    assert seen(preempted=False, withdrawn=True) is outcome
    taken = Outcome.PREEMPTED
    assert seen(preempted=True, withdrawn=False) is (
        taken if outcome in {Outcome.LOST, Outcome.CANCELLED} else outcome
    )
    assert seen(preempted=True, withdrawn=True) is (taken if outcome is Outcome.LOST else outcome)


def ended(task: TaskFacts, outcome: Outcome, committed: int = 0, **how: bool) -> tuple[str, int, int, int]:
    """The task's status, preemptions, failures and losses after one attempt."""
    after = task_outcomes.task_after(task, outcome, committed_frames=committed, **how)
    assert after.preemptible_retries == task.preemptible_retries
    assert after.task_retries == task.task_retries
    return after.status, after.preemptions, after.failures, after.losses


COUNTED = replace(RUNNING, preemptions=5, failures=6, losses=7, preemptible_retries=9, task_retries=9)


@pytest.mark.parametrize("committed", [0, 3])
@pytest.mark.parametrize(
    ("outcome", "how", "after"),
    [
        (Outcome.SUCCESS, {}, ("success", 5, 6, 7)),
        (Outcome.CANCELLED, {}, ("cancelled", 5, 6, 7)),
        (Outcome.CANCELLED, {"given_back": True}, ("pending", 5, 6, 7)),
        (Outcome.FAILED, {}, ("pending", 5, 7, 7)),
        (Outcome.FAILED, {"preemptible": False}, ("pending", 5, 7, 7)),
        (Outcome.TIMED_OUT, {}, ("pending", 5, 7, 7)),
        (Outcome.LOST, {}, ("pending", 5, 6, 8)),
        (Outcome.LOST, {"preemptible": False}, ("pending", 5, 6, 8)),
    ],
)
def test_each_outcome_spends_its_own_budget_whatever_was_committed(
    outcome: Outcome, how: dict[str, bool], after: tuple[str, int, int, int], committed: int
) -> None:
    assert ended(COUNTED, outcome, committed, **how) == after


@pytest.mark.parametrize(
    ("change", "committed", "preemptible", "after"),
    [
        ({}, 0, True, ("pending", 6, 6, 7)),
        ({}, 1, True, ("pending", 5, 6, 7)),
        ({}, 0, False, ("pending", 5, 6, 8)),
        ({}, 1, False, ("pending", 5, 6, 7)),
        ({"preemptible_retries": 6}, 0, True, ("pending", 6, 6, 7)),
        ({"preemptible_retries": 5}, 0, True, ("preempted", 6, 6, 7)),
        ({"preemptible_retries": 5}, 1, True, ("pending", 5, 6, 7)),
        ({"preemptible_retries": 0}, 0, True, ("preempted", 6, 6, 7)),
        ({"preemptible_retries": 0}, 1, True, ("preempted", 6, 6, 7)),
        ({"preemptible_retries": 0}, 1, False, ("pending", 5, 6, 7)),
        ({"preemptible_retries": 1}, 1, True, ("pending", 5, 6, 7)),
    ],
)
def test_preemption_is_free_for_an_attempt_with_a_committed_frame(
    change: dict[str, int], committed: int, preemptible: bool, after: tuple[str, int, int, int]
) -> None:
    task = replace(COUNTED, **change)
    assert ended(task, Outcome.PREEMPTED, committed, preemptible=preemptible) == after


def test_a_task_fails_after_more_failures_than_its_retries_or_more_than_20_losses() -> None:
    for outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        assert ended(replace(RUNNING, failures=1), outcome) == ("pending", 0, 2, 0)
        assert ended(replace(RUNNING, failures=2), outcome) == ("failed", 0, 3, 0)
    assert ended(replace(RUNNING, losses=19), Outcome.LOST) == ("pending", 0, 0, 20)
    assert ended(replace(RUNNING, losses=20), Outcome.LOST) == ("failed", 0, 0, 21)


def test_a_silent_sessions_task_waits_only_while_another_session_could_take_it() -> None:
    assert session_lease.reassignable(replace(RUNNING, losses=19), cancel_asked=False)
    assert not session_lease.reassignable(replace(RUNNING, losses=19), cancel_asked=True)
    for losses in (20, 21):
        assert not session_lease.reassignable(replace(RUNNING, losses=losses), cancel_asked=False)
    for status in set(TaskStatus) - {TaskStatus.RUNNING}:
        assert not session_lease.reassignable(replace(RUNNING, status=status), cancel_asked=False)


@given(
    st.integers(0, 20), st.none() | st.integers(1, 100_000), st.integers(1, 50), st.integers(1, 500),
    st.integers(1, 50),
)  # fmt: skip
def test_a_hand_out_is_bounded_and_an_empty_session_gets_work(
    held: int, frame_ms: int | None, per_task: int, ready: int, live: int
) -> None:
    size = batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
    assert 0 <= size <= min(16, ready)
    if held == 0:
        assert size >= 1


@pytest.mark.parametrize(
    ("held", "frame_ms", "per_task", "ready", "live", "size"),
    [
        (0, None, 1, 50, 1, 1),  # of unknown length: alone
        (1, None, 1, 50, 1, 0),
        (0, 100, 1, 100, 1, 10),  # a second of work
        (0, 143, 1, 100, 1, 6),
        (0, 100, 2, 100, 1, 5),
        (0, 1, 1, 100, 1, 16),  # at most 16
        (0, 0, 1, 100, 1, 16),
        (5, 100, 1, 100, 1, 5),  # topped up once half is used
        (6, 100, 1, 100, 1, 0),
        (3, 100, 1, 100, 1, 7),
        (0, 100, 1, 12, 4, 3),  # shared among the live sessions
        (2, 100, 1, 12, 5, 2),
        (1, 100, 1, 1, 3, 0),
        (0, 100, 1, 1, 3, 1),
        (0, 100, 1, 5, 0, 5),  # no session counted yet
        (1, 100, 1, 5, 0, 5),
        (0, 100, 1, 0, 1, 0),
        (0, 5000, 1, 4, 2, 2),  # one held ahead while there are plenty
        (0, 5000, 1, 50, 2, 2),
        (0, 5000, 1, 3, 2, 1),
        (1, 5000, 1, 3, 2, 1),
        (0, 5000, 1, 2, 2, 1),
        (1, 5000, 1, 2, 2, 0),
        (2, 5000, 1, 50, 2, 0),
    ],
)
def test_examples_of_batch_sizes(
    held: int, frame_ms: int | None, per_task: int, ready: int, live: int, size: int
) -> None:
    assert (
        batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
        == size
    )


@given(
    st.integers(0, 20), st.integers(0, 3000), st.integers(1, 5), st.integers(0, 100), st.integers(1, 20)
)  # fmt: skip
def test_a_batch_leaves_as_many_tasks_for_every_other_session(
    held: int, frame_ms: int, per_task: int, ready: int, live: int
) -> None:
    size = batch_size(held=held, frame_ms=frame_ms, frames_per_task=per_task, ready=ready, live_sessions=live)
    assert size * live <= ready or (held == 0 and size == 1)


@pytest.mark.parametrize(
    ("state", "seen", "silent", "late", "owns", "verdict"),
    [
        ("starting", "unknown", -1, -1, False, "keep"),
        ("starting", "running", 1, 0, False, "keep"),
        ("starting", "running", -1, 1, False, "end"),
        ("starting", "gone", -1, -1, False, "end"),
        ("rendering", "running", -1, 99, True, "keep"),
        ("rendering", "running", 1, 99, True, "lose"),
        ("rendering", "running", 0, 99, True, "keep"),
        ("rendering", "running", 1, -1, True, "lose"),
        ("rendering", "unknown", -1, 99, True, "keep"),
        ("rendering", "gone", -1, -1, True, "end"),
        ("ready", "running", 1, -1, False, "keep"),
        ("ready", "running", 1, 0, False, "keep"),
        ("ready", "running", 1, 1, False, "lose"),
        ("idle", "running", 1, 1, False, "lose"),
        ("lost", "running", 1, 1, False, "stop"),
        ("lost", "running", 1, 1, True, "keep"),
        ("lost", "unknown", 60, 1, True, "keep"),
        ("lost", "unknown", 61, 1, True, "give_up"),
        ("lost", "running", -5, 1, True, "keep"),
        ("lost", "gone", 1, 1, True, "end"),
        ("ended", "running", 1, 1, False, "keep"),
        ("ended", "gone", 1, 1, False, "keep"),
    ],
)
def test_a_session_is_judged(state: str, seen: Any, silent: int, late: int, owns: bool, verdict: str) -> None:
    judgement = session_lease.judge_session(
        SessionState(state), seen, silent_ms=silent, deadline_ms=late, owns=owns, give_up_ms=60
    )
    assert judgement == verdict


LIVE = (SessionState.READY, SessionState.RENDERING, SessionState.IDLE)
NEXT_STATE = {
    (SessionState.STARTING, SessionEvent.HELLO): SessionState.READY,
    (SessionState.LOST, SessionEvent.LATE_CALL): SessionState.RENDERING,
    **{(state, SessionEvent.HANDED_OUT): SessionState.RENDERING for state in LIVE},
    **{(state, SessionEvent.OUT_OF_WORK): SessionState.IDLE for state in LIVE},
    **{(state, SessionEvent.LEASE_EXPIRED): SessionState.LOST for state in LIVE},
    **{(state, SessionEvent.GONE): SessionState.ENDED for state in SessionState if state != "ended"},
}


@pytest.mark.parametrize(("state", "event"), [*product(SessionState, SessionEvent)])
def test_a_sessions_next_state_is_in_the_table_or_refused(state: SessionState, event: SessionEvent) -> None:
    if (state, event) in NEXT_STATE:
        assert session_lease.session_after(state, event) is NEXT_STATE[state, event]
    else:
        with pytest.raises(rules.Refused, match=f"A session that is {state} can't take {event}"):
            session_lease.session_after(state, event)


def test_finished_jobs_live_sessions_and_holds_are_those_of_the_docs() -> None:
    assert {"success", "failed", "cancelled"} == rules.FINISHED
    assert set(LIVE) == session_lease.LIVE
    assert rules.HOLDS == ("budget", "dependency", "rule", "user")
    assert {"user", "rule", "dependency"} == rules.LIFTED_BY_UNHOLD
