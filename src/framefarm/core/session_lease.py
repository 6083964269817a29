"""A session's states and its lease: when it is lost, stopped or ended. Drawn in docs/states.md.

Pure. The dispatcher applies it to every session (`server/dispatch/reconcile.py`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from framefarm.core.job import Refused, TaskStatus
from framefarm.core.task_outcomes import FARM_LOSSES, TaskFacts


class SessionState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RENDERING = "rendering"
    IDLE = "idle"
    LOST = "lost"
    ENDED = "ended"


class SessionEvent(StrEnum):
    HELLO = "hello"
    HANDED_OUT = "handed_out"
    OUT_OF_WORK = "out_of_work"
    LEASE_EXPIRED = "lease_expired"
    LATE_CALL = "late_call"
    """A lost session called, and still owns a task."""
    GONE = "gone"
    """Its end was reported, by its runner or by the engine."""


LIVE = frozenset({SessionState.READY, SessionState.RENDERING, SessionState.IDLE})


def session_after(state: SessionState, event: SessionEvent) -> SessionState:
    """The session's next state. Raises Refused if the event is impossible in `state`."""
    if event is SessionEvent.GONE and state is not SessionState.ENDED:
        return SessionState.ENDED
    if event is SessionEvent.HELLO and state is SessionState.STARTING:
        return SessionState.READY
    if event is SessionEvent.LEASE_EXPIRED and state in LIVE:
        return SessionState.LOST
    if event is SessionEvent.LATE_CALL and state is SessionState.LOST:
        return SessionState.RENDERING
    if event is SessionEvent.HANDED_OUT and state in LIVE:
        return SessionState.RENDERING
    if event is SessionEvent.OUT_OF_WORK and state in LIVE:
        return SessionState.IDLE
    raise Refused(f"A session that is {state} can't take {event}.")


Seen = Literal["running", "gone", "unknown"]
"""The engine's report of a session. `unknown` if the engine does not answer."""
Judgement = Literal["keep", "lose", "stop", "give_up", "end"]


def judge_session(
    state: SessionState, seen: Seen, *, silent_ms: int, deadline_ms: int, owns: bool, give_up_ms: int
) -> Judgement:
    """Judgement of the leader on a session, from its lease and the engine's report.

    Times are milliseconds, negative before the moment: `silent_ms` since its lease expired, `deadline_ms`
    since the end of the time allowed for its start (until it asks for work). `give_up_ms`: how long a runner
    works on without the farm. `owns`: an open attempt of the session still owns its task.

    - `keep`: nothing changes.
    - `lose`: other sessions may take its tasks; the session may still come back.
    - `stop`: it is stopped, because it owns no task any more.
    - `give_up`: it has been lost for longer than `give_up_ms`, and forfeits its tasks.
    - `end`: it is recorded as ended. Its slot becomes free once the engine reports it `gone`.
    """
    if state is SessionState.ENDED:
        return "keep"
    if seen == "gone":
        return "end"
    if state is SessionState.STARTING:
        return "end" if deadline_ms > 0 else "keep"
    if silent_ms <= 0 or (state is SessionState.READY and deadline_ms <= 0):
        return "keep"
    if state is not SessionState.LOST:
        return "lose"
    if not owns:
        return "stop"
    return "give_up" if silent_ms > give_up_ms else "keep"


def reassignable(task: TaskFacts, *, cancel_asked: bool) -> bool:
    """Whether a lost session keeps this task until another session takes it. Otherwise the attempt is lost
    at once, because no session would take it."""
    return task.status is TaskStatus.RUNNING and not cancel_asked and task.losses < FARM_LOSSES
