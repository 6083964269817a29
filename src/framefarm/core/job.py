"""The states of job, task, attempt and session, and every way from one to the next. Drawn in docs/states.md.

Pure: `(what is, what happened) → (what is, what to do)`. `server/jobs/state.py` carries the results into the
database; where a hot path does a transition as one SQL statement, a property test holds it against this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal


class JobStatus(StrEnum):
    SYNCING = "syncing"
    PENDING = "pending"
    RUNNING = "running"
    HOLDING = "holding"
    CANCELLING = "cancelling"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED})


class TaskStatus(StrEnum):
    WAITING = "waiting"
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    SUCCESS = "success"
    FAILED = "failed"
    PREEMPTED = "preempted"
    LOST = "lost"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class SessionState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RENDERING = "rendering"
    IDLE = "idle"
    LOST = "lost"
    ENDED = "ended"


Hold = Literal["user", "budget", "rule", "dependency"]
HOLDS: tuple[Hold, ...] = ("budget", "dependency", "rule", "user")
LIFTED_BY_UNHOLD = frozenset({"user", "rule", "dependency"})
FARM_LOSSES = 20
"""How many times a task may be lost through no fault of its own before a person must look."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a job's status is computed from. Counts are of tasks handed out at least once."""

    next: int
    task_count: int | None
    """None until the scene's frames are known."""
    scout_count: int
    holds: frozenset[str]
    gate_open: bool
    missing: int
    scene_read: bool
    depends_left: int
    cancel_asked: bool
    failed: bool
    """The whole job failed (an unreadable scene, say): what still runs is being stopped."""
    pending: int
    running: int
    success: int
    failures: int
    preempted: int
    scouts_ended: int
    unpublished: int

    @property
    def untouched(self) -> int:
        """Tasks never handed out."""
        return 0 if self.task_count is None else self.task_count - self.next

    @property
    def scouts_closed(self) -> bool:
        """The scouts have ended, well or badly, behind a closed gate, and there is more behind it."""
        return (
            self.scout_count > 0
            and not self.gate_open
            and self.scouts_ended == self.scout_count
            and self.task_count is not None
            and self.task_count > self.scout_count
        )

    @property
    def limit(self) -> int:
        """Tasks below this number may be handed out as far as the scout gate is concerned."""
        if self.task_count is None:
            return 0
        return self.task_count if self.gate_open or self.scout_count == 0 else self.scout_count

    @property
    def may_start(self) -> bool:
        """Whether a task may be handed out now."""
        return (
            self.scene_read
            and not self.holds
            and not self.missing
            and not self.depends_left
            and not self.cancel_asked
            and not self.failed
            and self.task_count is not None
        )

    @property
    def ready(self) -> int:
        """Tasks that could be handed out now."""
        return self.pending + max(0, self.limit - self.next) if self.may_start else 0


def job_status(job: JobFacts) -> JobStatus:
    """The one place where a job's status comes from."""
    if job.cancel_asked:
        return JobStatus.CANCELLING if job.running or job.unpublished else JobStatus.CANCELLED
    if job.failed:
        return JobStatus.RUNNING if job.running else JobStatus.FAILED
    if job.task_count is not None and job.untouched == 0 and not job.pending and not job.running:
        if job.failures or job.preempted:
            return JobStatus.FAILED
        if not job.unpublished:
            return JobStatus.SUCCESS
        return JobStatus.RUNNING
    if job.holds or (job.scouts_closed and not job.pending and not job.running):
        return JobStatus.HOLDING
    if job.missing:
        return JobStatus.SYNCING
    if job.running or job.success or job.failures or job.preempted:
        return JobStatus.RUNNING
    return JobStatus.PENDING


def hold_reasons(job: JobFacts) -> list[str]:
    """Why the job holds: its holds, and `scouts` for a gate that waits for a person."""
    reasons = sorted(job.holds)
    if job.scouts_closed:
        reasons.append("scouts")
    return reasons


def untouched_status(job: JobFacts, number: int) -> TaskStatus:
    """The status of a task that was never handed out."""
    if job.cancel_asked or job.failed:
        return TaskStatus.CANCELLED
    if not job.may_start or number >= job.limit:
        return TaskStatus.WAITING
    return TaskStatus.PENDING


class Refused(Exception):
    """The state forbids it; the text says the state and what is allowed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an action does to a job. `stop`: its sessions stop now; else they end their frame in work."""

    holds: frozenset[str]
    gate_open: bool
    cancel: bool = False
    stop: bool = False


def hold(job: JobFacts, *, drain: bool = True, by: Hold = "user") -> Change:
    """Someone holds the job. Running frames end, unless `drain` is false: then they are stopped."""
    status = job_status(job)
    if status in {JobStatus.SUCCESS, JobStatus.FAILED}:
        raise Refused(f"The job is {status}; only an unfinished job can be held.")
    if status in {JobStatus.CANCELLED, JobStatus.CANCELLING}:
        raise Refused(f"The job is {status}; it cannot be held any more.")
    return Change(job.holds | {by}, job.gate_open, stop=not drain)


def lift(job: JobFacts, hold: Hold) -> Change:
    """One hold is over by itself; the others stay."""
    return Change(job.holds - {hold}, job.gate_open)


def unhold(job: JobFacts) -> Change:
    """Lift the holds that a person may lift; without any, open the scout gate."""
    status = job_status(job)
    if status in {JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.CANCELLING}:
        raise Refused(f"The job is {status}; there is nothing to unhold.")
    if "budget" in job.holds:
        raise Refused("A budget holds this job: raise or remove the budget, then the job goes on.")
    if job.holds:
        return Change(job.holds - LIFTED_BY_UNHOLD, job.gate_open)
    return Change(job.holds, True)


def cancel(job: JobFacts) -> Change:
    """Stop for good. Cancelling what is cancelled changes nothing."""
    status = job_status(job)
    if status in {JobStatus.SUCCESS, JobStatus.FAILED}:
        raise Refused(f"The job is {status}; only an unfinished job can be cancelled.")
    return Change(job.holds, job.gate_open, cancel=True, stop=True)


# ------------------------------------------------------------------------------------ tasks


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """Where a task stands, and what is left of its budgets of patience."""

    status: TaskStatus
    preemptions: int
    failures: int
    losses: int
    preemptible_retries: int
    task_retries: int


def outcome_of(said: Outcome, *, preempted: bool, withdrawn: bool) -> Outcome:
    """How an attempt ended, as the farm sees it. In a session that is being preempted, what is given up or
    lost was preempted, whatever its runner knew of it; not what a person's hold withdrew."""
    if preempted and (said is Outcome.LOST or (said is Outcome.CANCELLED and not withdrawn)):
        return Outcome.PREEMPTED
    return said


def task_after(
    task: TaskFacts,
    outcome: Outcome,
    *,
    committed_frames: int,
    given_back: bool = False,
    preemptible: bool = True,
) -> TaskFacts:
    """The task once its attempt has ended. `given_back`: the farm wanted it back, its fault is nobody's.

    Preemptions, failures and losses are counted apart. An attempt that committed a frame before it was
    preempted spends nothing, unless `preemptible_retries` is 0. Work that is not `preemptible` can still lose
    its machine to the provider: that is the farm's loss.
    """
    if outcome is Outcome.SUCCESS:
        return replace(task, status=TaskStatus.SUCCESS)
    if outcome is Outcome.CANCELLED:
        return replace(task, status=TaskStatus.PENDING if given_back else TaskStatus.CANCELLED)
    if outcome in {Outcome.FAILED, Outcome.TIMED_OUT}:
        failures = task.failures + 1
        over = failures > task.task_retries
        return replace(task, failures=failures, status=TaskStatus.FAILED if over else TaskStatus.PENDING)
    if outcome is Outcome.PREEMPTED and not preemptible and committed_frames:
        return replace(task, status=TaskStatus.PENDING)
    if outcome is Outcome.PREEMPTED and preemptible:
        if task.preemptible_retries == 0:
            return replace(task, preemptions=task.preemptions + 1, status=TaskStatus.PREEMPTED)
        if committed_frames:
            return replace(task, status=TaskStatus.PENDING)
        preemptions = task.preemptions + 1
        over = preemptions > task.preemptible_retries
        return replace(
            task, preemptions=preemptions, status=TaskStatus.PREEMPTED if over else TaskStatus.PENDING
        )
    losses = task.losses + 1
    over = losses > FARM_LOSSES
    return replace(task, losses=losses, status=TaskStatus.FAILED if over else TaskStatus.PENDING)


# --------------------------------------------------------------------- sessions and leases


class SessionEvent(StrEnum):
    HELLO = "hello"
    HANDED_OUT = "handed_out"
    OUT_OF_WORK = "out_of_work"
    LEASE_EXPIRED = "lease_expired"
    LATE_CALL = "late_call"
    """A lost session calls, and still owns a task."""
    GONE = "gone"
    """Its runner said so, or the engine."""


LIVE = frozenset({SessionState.READY, SessionState.RENDERING, SessionState.IDLE})


def session_after(state: SessionState, event: SessionEvent) -> SessionState:
    """The session's next state. Raises Refused where the event can't be."""
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
"""What the engine says of a session. An engine that does not answer says `unknown`, never `gone`."""
Judgement = Literal["keep", "lose", "stop", "give_up", "end"]


def judge(
    state: SessionState, seen: Seen, *, silent_ms: int, deadline_ms: int, owns: bool, give_up_ms: int
) -> Judgement:
    """What the leader does with a session. `silent_ms`: time past the end of its lease; `deadline_ms`: time
    past the end of its start-up, that is until it asked for work; `owns`: an open attempt of it still owns
    its task.

    `lose`: its tasks may go to others, and nothing else happens to it. `stop`: it owns nothing any more.
    `give_up`: it was lost for longer than a runner works on without the farm: what it owns is forfeited.
    `end`: it is over. Its slot is free only once the engine says that it is gone.
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
    """Whether a task whose session fell silent waits for whoever comes first: another session, or this one
    after all. Else its attempt is lost at once, because nobody would take it."""
    return task.status is TaskStatus.RUNNING and not cancel_asked and task.losses < FARM_LOSSES


# --------------------------------------------------------------------------------- hand-out


def batch_size(
    *,
    held: int,
    frame_ms: int | None,
    frames_per_task: int,
    ready: int,
    live_sessions: int,
    look_ahead_ms: int = 1000,
) -> int:
    """How many more tasks a session gets that holds `held` unfinished ones.

    Enough for about a second of work, at most 16, never so many that another session of the job would go
    without; a task of unknown length comes alone. One more task than needed is held ahead while there are
    plenty, so that Blender never waits for an answer.
    """
    if frame_ms is None:
        want = 1
    else:
        task_ms = max(1, frame_ms * frames_per_task)
        want = max(1, min(16, look_ahead_ms // task_ms))
        if ready > live_sessions:
            want = max(want, 2)
    if held * 2 > want:
        return 0
    fair = max(1, ready // max(1, live_sessions)) if held == 0 else ready // max(1, live_sessions)
    return max(0, min(want - held, fair, ready))
