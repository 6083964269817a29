"""A session's work in hand: the attempts that own a task, how each ends and is billed, and the session's end.

Every function here needs the job's lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.frames import FrameSet
from framefarm.core.job import TaskStatus
from framefarm.core.money import affordable_ms, billed_ms, cost_micros
from framefarm.core.retry_policy import (
    ENOUGH_OF_A_JOB,
    Failure,
    needs_earlier_failures,
    reason_not_to_retry,
    reason_to_fail_job,
)
from framefarm.core.session_lease import SessionState
from framefarm.core.task_outcomes import Outcome, TaskFacts, outcome_of, task_after
from framefarm.server.database import Tx
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import tasks
from framefarm.server.jobs.task_plans import job_terms_of
from framefarm.server.jobs.task_rows import Columns
from framefarm.server.rows import AttemptRow, SessionRow
from framefarm.server.sessions import ownership
from framefarm.server.sessions.assignment import committed
from framefarm.server.sessions.report_changes import ReportChanges
from framefarm.server.sessions.tables import attempts, leases, sessions
from framefarm.server.tenancy import farmwide

PREEMPTED = "Its preemptible machine was given to other work."
TAKEN = "Its machine was taken away by its provider."
LOST = "The machine was lost while it rendered."
NO_PREEMPTIONS_LEFT = (
    "{} Its preemptible_retries ({}) are used up; finished frames are kept: retry the task for the others."
)

_OWNED = farmwide(
    sa.select(
        attempts,
        tasks.c.status.label("task_status"),
        tasks.c.preemptions,
        tasks.c.failures,
        tasks.c.losses,
        tasks.c.frames_done.label("task_frames_done"),
    )
    .select_from(attempts.join(tasks, ownership.OWN))
    .where(attempts.c.session_id == sa.bindparam("session"), attempts.c.outcome.is_(None))
    .order_by(attempts.c.assigned_ms, attempts.c.task_number)
)

_FAILED = (
    farmwide(sa.select(attempts.c.node, attempts.c.cause))
    .where(attempts.c.job_id == sa.bindparam("job"), attempts.c.task_number == sa.bindparam("number"))
    .where(attempts.c.outcome.in_([str(Outcome.FAILED), str(Outcome.TIMED_OUT)]))
    .order_by(attempts.c.ended_ms.desc())
)

_EQUAL_FAILURES = (
    farmwide(sa.select(attempts.c.node, attempts.c.cause))
    .where(attempts.c.job_id == sa.bindparam("job"), attempts.c.cause == sa.bindparam("cause"))
    .where(attempts.c.outcome.in_([str(Outcome.FAILED), str(Outcome.TIMED_OUT)]))
)

_SPENT = (
    farmwide(sa.update(sessions))
    .where(sessions.c.id == sa.bindparam("session"))
    .values(spent_micros=sessions.c.spent_micros + sa.bindparam("more"))
)


@dataclass(slots=True)
class OwnedAttempt(AttemptRow):
    """An open attempt that owns its task, with that task's own facts."""

    task_status: TaskStatus
    preemptions: int
    failures: int
    losses: int
    task_frames_done: int


class SessionWork:
    """The open attempts of one session that own their task, and the changes that their ends make.

    Changes of the job's counts are made in `state` at once, all others by `write`. The caller saves `state`.
    """

    def __init__(self, tx: Tx, session: SessionRow, state: JobState) -> None:
        self.tx, self.session, self.state = tx, session, state
        rows = tx.rows(OwnedAttempt, _OWNED, {"session": session.id})
        self.owned: dict[str, OwnedAttempt] = {attempt.id: attempt for attempt in rows}
        """By attempt id, in order of assignment."""
        self.changes = ReportChanges()
        self.failed_job = False
        """A failure here has failed the whole job."""
        self.gave_back = False
        """A task waits for another session now."""
        self.spent_micros = 0
        """Cost of the attempts that end here; not in the session's row yet."""

    # -- ends

    def release(self, attempt: OwnedAttempt) -> None:
        """Delete an attempt that never began; its task waits again."""
        self.changes.attempts.pop(attempt.id, None)
        self.changes.deleted_attempts.append(attempt.id)
        status = TaskStatus.CANCELLED if self._job_stopped else TaskStatus.PENDING
        self.state.move(attempt.task_number, TaskStatus.RUNNING, status)
        self.gave_back = True
        self.task_change(attempt).update(status=status, attempt_id=None)
        self.changes.given_back.add(attempt.task_number)
        del self.owned[attempt.id]

    def return_all(self, message: str | None) -> None:
        """Return all tasks that the session still owns. Attempts that had begun are lost, at the farm's cost.

        `message`: one sentence on why, for those attempts.
        """
        for attempt in list(self.owned.values()):
            if attempt.started_ms is None and "outcome" not in self.changes.attempts.get(attempt.id, {}):
                self.release(attempt)
            else:
                self.end(attempt, Outcome.LOST, 0, "machine_lost", message or LOST)

    def end(
        self,
        attempt: OwnedAttempt,
        outcome: Outcome,
        spent_ms: int,
        cause: str | None,
        message: str | None,
        *,
        may_fail_job: bool = False,
        at_opening: bool = False,
    ) -> None:
        """End an attempt: bill it, and set its task's next status.

        `spent_ms`: from the attempt's start to its end, on the runner's clock. `may_fail_job`: a failure that
        is the same for every task fails the whole job; if `failed_job` is set then, the caller calls
        `scene_warnings.stop_failed` after `write`. `at_opening`: it failed before its first frame.
        """
        outcome = outcome_of(
            outcome,
            preempted=self.session.preempt_ms is not None,
            withdrawn=bool(self.state.facts.holds),
        )
        if outcome is Outcome.PREEMPTED:
            cause, message = "preempted", TAKEN if self.session.taken else PREEMPTED
        self._bill(attempt, outcome, spent_ms)
        attempt.outcome, attempt.cause, attempt.message = outcome, cause, message
        attempt.ended_ms = self.tx.now_ms
        self.change_attempt(
            attempt,
            "outcome", "ended_ms", "cause", "message", "billed_ms", "cost_micros",
            "started_ms", "started_mono_ms", "peak_memory_bytes",
        )  # fmt: skip
        failed = outcome in {Outcome.FAILED, Outcome.TIMED_OUT}
        why = self._why_job_fails(attempt, at_opening=at_opening) if failed and may_fail_job else None
        status, message = self._end_task(attempt, outcome, cause, message)
        if why is not None:
            status = TaskStatus.FAILED
            self.task_change(attempt)["status"] = status
            if self.state.task_count != 1:  # a person may retry the only task
                self.state.failed_cause, self.state.failed_message = cause, f"{message} {why}"
                self.failed_job = True
        self.state.move(attempt.task_number, TaskStatus.RUNNING, status)
        self.gave_back = self.gave_back or status is TaskStatus.PENDING
        if outcome is not Outcome.SUCCESS:
            data = {"task": attempt.task_number, "outcome": str(outcome), "status": str(status)}
            self.state.emit(
                self.tx, "system", "task.attempt_ended", data | {"cause": cause, "message": message}
            )
        self.owned.pop(attempt.id, None)

    def _bill(self, attempt: OwnedAttempt, outcome: Outcome, spent_ms: int) -> None:
        began_ms = attempt.started_mono_ms or 0
        billed = self._affordable_ms(
            attempt,
            billed_ms(
                outcome,
                started_ms=began_ms,
                ended_ms=max(began_ms + spent_ms, attempt.saved_mono_ms or 0),
                last_commit_ms=attempt.saved_mono_ms,
                limit_ms=self.tx.now_ms - attempt.assigned_ms,
            ),
        )
        attempt.billed_ms, attempt.cost_micros = billed, cost_micros(billed, attempt.price_micros)
        self.spent_micros += attempt.cost_micros
        self.state.cost_micros += attempt.cost_micros
        if outcome is not Outcome.LOST:
            self.state.billed_frames += attempt.frames_done
            self.state.billed_ms += billed

    def _affordable_ms(self, attempt: OwnedAttempt, billed: int) -> int:
        """At most the time that the session's reservations pay for; the farm bears the rest."""
        cap = self.session.cost_cap_micros
        if cap is None:
            return billed
        rest = cap - self.session.spent_micros - self.spent_micros
        affordable = affordable_ms(rest, attempt.price_micros)
        return billed if affordable is None else min(billed, affordable)

    def _end_task(
        self, attempt: OwnedAttempt, outcome: Outcome, cause: str | None, message: str | None
    ) -> tuple[TaskStatus, str | None]:
        """Change the task of an attempt that ended; returns its status and the sentence for its event."""
        terms = job_terms_of(self.tx, self.state.job_id)
        before = TaskFacts(
            TaskStatus.RUNNING,
            attempt.preemptions,
            attempt.failures,
            attempt.losses,
            terms.preemptible_retries,
            terms.task_retries,
        )
        after = task_after(
            before,
            outcome,
            committed_frames=attempt.frames_done,
            given_back=not self._job_stopped,
            preemptible=attempt.preemptible,
        )
        status = after.status
        failed = outcome in {Outcome.FAILED, Outcome.TIMED_OUT}
        if failed and status is TaskStatus.PENDING and (why := self._stops_early(attempt, before.failures)):
            status, message = TaskStatus.FAILED, f"{message} {why}"
        if self._job_stopped and status is TaskStatus.PENDING:
            status = TaskStatus.CANCELLED
        if status is TaskStatus.PENDING and attempt.frames_done and self._has_all_frames(attempt):
            status = TaskStatus.SUCCESS  # its last frame was committed before its end was reported
        change = self.task_change(attempt)
        change.update(
            status=status, preemptions=after.preemptions, failures=after.failures, losses=after.losses
        )
        if status is TaskStatus.SUCCESS:
            change.update(redo=None, cause=None, reason=None)
        elif message:
            change.update(cause=cause, reason=message)
        if status is TaskStatus.PREEMPTED:
            change["reason"] = NO_PREEMPTIONS_LEFT.format(message, terms.preemptible_retries)
        if failed and status is TaskStatus.PENDING:
            change["not_before_ms"] = self.tx.now_ms + 1000 * 2 ** min(after.failures - 1, 6)
        return status, message

    @property
    def _job_stopped(self) -> bool:
        """The whole job was cancelled or has failed: no task of it gets another attempt."""
        return self.state.facts.cancel_asked or self.state.facts.failed

    def _stops_early(self, attempt: OwnedAttempt, failures: int) -> str | None:
        """The reason, if the task's last failures speak against another attempt."""
        if not failures:
            return None
        query = _FAILED.limit(failures)
        rows = self.tx.conn.execute(query, {"job": self.state.job_id, "number": attempt.task_number})
        return reason_not_to_retry(Failure(attempt.node, attempt.cause), [Failure(*row) for row in rows])

    def _why_job_fails(self, attempt: OwnedAttempt, *, at_opening: bool) -> str | None:
        """The reason, if the failure is the same for every task of the job."""
        progress = {"opened": self.state.loads > 0, "rendered": self.state.frames_done > 0}
        if self._job_stopped or not needs_earlier_failures(attempt.cause, **progress):
            return None
        limit = 0 if self.state.task_count == 1 else ENOUGH_OF_A_JOB  # its only task has retries of its own
        query = _EQUAL_FAILURES.limit(limit)
        rows = self.tx.conn.execute(query, {"job": self.state.job_id, "cause": attempt.cause})
        earlier = [Failure(*row) for row in rows]
        latest = Failure(attempt.node, attempt.cause)
        return reason_to_fail_job(latest, earlier, at_opening=at_opening, **progress)

    def _has_all_frames(self, attempt: OwnedAttempt) -> bool:
        new = {row.frame for row in self.changes.frames if row.attempt_id == attempt.id}
        done = committed(self.tx, self.state.job_id, attempt.task_number, attempt.revision)
        return all(f in done or f in new for f in FrameSet.from_text(attempt.frames))

    # -- changes

    def change_attempt(self, attempt: OwnedAttempt, *names: str) -> None:
        """Write these columns of the attempt, as they are in memory."""
        columns = {name: getattr(attempt, name) for name in names}
        self.changes.attempts.setdefault(attempt.id, {}).update(columns)

    def task_change(self, attempt: OwnedAttempt) -> Columns:
        """Columns of the attempt's task that `write` changes; add to them."""
        return self.changes.tasks.setdefault(attempt.task_number, {})

    def write(self) -> None:
        """Write all changes. Call it once, at the end."""
        if self.spent_micros:
            self.session.spent_micros += self.spent_micros
            self.tx.conn.execute(_SPENT, {"session": self.session.id, "more": self.spent_micros})
            self.spent_micros = 0
        self.changes.write(self.tx, self.state.job_id)


def end_session(tx: Tx, session: SessionRow, state: JobState, reason: str, message: str | None) -> None:
    """End a session and its lease, and return the tasks that it still owns."""
    work = SessionWork(tx, session, state)
    work.return_all(message)
    work.write()
    mark_ended(tx, session, reason, message)


def mark_ended(tx: Tx, session: SessionRow, reason: str, message: str | None) -> None:
    """Mark a session without attempts as ended, and delete its lease."""
    session.ended, session.state = True, SessionState.ENDED
    tx.conn.execute(
        farmwide(sa.update(sessions))
        .where(sessions.c.id == session.id)
        .values(
            ended=True, state=SessionState.ENDED, ended_ms=tx.now_ms, end_reason=reason, end_message=message
        )
    )
    tx.conn.execute(sa.delete(leases).where(leases.c.session_id == session.id))
