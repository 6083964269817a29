"""States of sessions: events, leases and the judgement of silent ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from test_job import RUNNING

from framefarm.core import job as rules
from framefarm.core import session_lease
from framefarm.core.job import TaskStatus
from framefarm.core.session_lease import SessionEvent, SessionState


def test_a_silent_sessions_task_waits_only_while_another_session_could_take_it() -> None:
    assert session_lease.reassignable(replace(RUNNING, losses=19), cancel_asked=False)
    assert not session_lease.reassignable(replace(RUNNING, losses=19), cancel_asked=True)
    for losses in (20, 21):
        assert not session_lease.reassignable(replace(RUNNING, losses=losses), cancel_asked=False)
    for status in set(TaskStatus) - {TaskStatus.RUNNING}:
        assert not session_lease.reassignable(replace(RUNNING, status=status), cancel_asked=False)


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
