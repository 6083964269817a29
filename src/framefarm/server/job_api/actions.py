"""Actions of people on jobs: hold, unhold, cancel, priority, retry, delete. One locked transaction each."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core import frame_grammar as grammar
from framefarm.core import job as rules
from framefarm.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from framefarm.core.frame_grammar import Pick
from framefarm.core.frame_runs import FrameSpecError
from framefarm.core.frames import FrameSet
from framefarm.core.job import FINISHED, JobStatus, TaskStatus
from framefarm.core.task_plan import TaskPlan
from framefarm.protocol.api_jobs import JobChange, Retry
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.billing import service as billing
from framefarm.server.database import Tx
from framefarm.server.jobs import dependencies, records, task_rows
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import jobs, tasks
from framefarm.server.jobs.task_plans import plan_of
from framefarm.server.rows import JobRow, TaskRow
from framefarm.server.sessions import ownership
from framefarm.server.sessions.instructions import carry_out, instruct_job
from framefarm.server.sessions.tables import frames
from framefarm.server.tenancy import scoped

SAME = {"holding": "hold", "pending": "unhold", "cancelled": "cancel"}
MAX_REDO = 10_000


def find_job(tx: Tx, actor: Actor, job_id: str) -> JobRow:
    """The job's row. Raises NotFound, also for another account's job."""
    query = scoped(sa.select(jobs), jobs, actor.account_id).where(
        jobs.c.id == job_id, jobs.c.deleted_ms.is_(None)
    )
    row = tx.row_or_none(JobRow, query)
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


def find_job_with_files(tx: Tx, actor: Actor, job_id: str) -> JobRow:
    """The job's row, also of a deleted job as long as its list of files is kept. Raises NotFound."""
    query = scoped(sa.select(jobs), jobs, actor.account_id).where(
        jobs.c.id == job_id, jobs.c.emptied_ms.is_(None)
    )
    row = tx.row_or_none(JobRow, query)
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


def find_job_to_change(tx: Tx, actor: Actor, job_id: str) -> JobRow:
    """The job's row, if the actor may change it: members their own jobs, admins all of the account's.

    Raises NotFound, NotAllowed.
    """
    actor.must_write()
    row = find_job(tx, actor, job_id)
    if not actor.is_admin and row.user_id != actor.user_id:
        raise NotAllowed("Members may change only their own jobs; ask an admin of the account.")
    return row


def _locked(tx: Tx, actor: Actor, job_id: str) -> tuple[JobRow, JobState]:
    """The job, to be changed, and its locked state. Read again after the lock: it may have been deleted."""
    find_job_to_change(tx, actor, job_id)
    state = job_states.lock(tx, job_id)
    return find_job(tx, actor, job_id), state


def change(tx: Tx, actor: Actor, job_id: str, body: JobChange) -> None:
    """PATCH: an action and/or a priority, all or nothing.

    Raises InvalidInput, NotFound, NotAllowed, Conflict.
    """
    action = body.action or SAME.get(body.status or "")
    if body.action and body.status and SAME[body.status] != body.action:
        raise InvalidInput.of(
            "status", f"says {SAME[body.status]}, but action says {body.action}", body.status
        )
    if action is None and body.priority is None:
        raise InvalidInput.of("action", "give an action (hold, unhold, cancel) and/or a priority", None)
    _, state = _locked(tx, actor, job_id)
    before = {"status": state.status, "priority": state.priority, "holds": state.holds}
    if action is not None:
        _act(tx, actor, state, action, body.drain)
    if body.priority is not None and body.priority != state.priority:
        if state.status in FINISHED:
            raise Conflict(f"The job is {state.status}: its priority no longer matters.", state=state.status)
        state.priority = body.priority
        state.emit(tx, actor.name, "job.priority", {"priority": body.priority})
    if state.columns() == state.before:
        return
    job_states.save(tx, state, actor.name)
    after = {"status": state.status, "priority": state.priority, "holds": state.holds}
    audit(tx, actor, f"job.{action or 'priority'}", job_id, before=before, after=after)


def _act(tx: Tx, actor: Actor, state: JobState, action: str, drain: bool) -> None:
    facts = state.facts
    try:
        if action == "hold":
            change = rules.hold(facts, drain=drain)
        elif action == "unhold":
            change = rules.unhold(facts)
            if "dependency" in facts.holds:
                # Their failure counts as accepted.
                state.depends_left -= dependencies.remove_failed(tx, state.job_id)
        else:
            change = rules.cancel(facts)
    except rules.Refused as refused:
        raise Conflict(str(refused), state=state.status, allowed=_allowed(state)) from None
    carry_out(tx, state, change)


def _allowed(state: JobState) -> list[str]:
    if state.status in {JobStatus.SUCCESS, JobStatus.FAILED}:
        return ["retry", "delete"]
    return ["delete"] if state.status is JobStatus.CANCELLED else ["cancel"]


def delete(tx: Tx, actor: Actor, job_id: str) -> None:
    """Mark a finished job as deleted. Delivered outputs, usage and ledger are kept.

    Raises NotFound, NotAllowed, Conflict.
    """
    _, state = _locked(tx, actor, job_id)
    if state.status not in FINISHED:
        raise Conflict(
            f"The job is {state.status}; only a finished job can be deleted. Cancel it first.",
            state=state.status,
            allowed=["cancel"],
        )
    mark_deleted(tx, state, actor.name, actor.request_id)


def mark_deleted(tx: Tx, state: JobState, actor: str, request_id: str = "") -> None:
    """Mark a finished, locked job as deleted; retention removes its rows and files later."""
    records.mark_deleted(tx, state.job_id)
    state.emit(tx, actor, "job.deleted", {})
    job_states.save(tx, state, actor)
    audit(tx, actor, "job.delete", state.job_id, account_id=state.account_id, request_id=request_id)


def retry(tx: Tx, actor: Actor, job_id: str, body: Retry) -> list[str]:
    """Retry all failed and preempted tasks, or exactly the frames asked for. Returns task numbers.

    Raises InvalidInput, NotFound, NotAllowed, Conflict.
    """
    job, state = _locked(tx, actor, job_id)
    plan = _plan_to_retry(job, state)
    if body.frames is None:
        numbers = _failed_tasks(tx, job_id)
        if not numbers:
            raise Conflict("No task of this job has failed.", state=state.status)
        _reset_failed_tasks(tx, state)
    else:
        billing.must_have_credit(tx, actor.account_id)
        numbers = _redo(tx, state, plan, body.frames)
    return _record_retry(tx, actor, state, plan, numbers)


def retry_task(tx: Tx, actor: Actor, job_id: str, number: int) -> list[str]:
    """Retry one failed or preempted task. Returns its number. Raises NotFound, NotAllowed, Conflict."""
    job, state = _locked(tx, actor, job_id)
    plan = plan_of(job)
    if plan is None or not 0 <= number < plan.task_count:
        raise NotFound(f"Job {job_id} has no task {number}.")
    plan = _plan_to_retry(job, state)
    key = (tasks.c.job_id == job_id) & (tasks.c.number == number)
    status = tx.conn.execute(sa.select(tasks.c.status).where(key)).scalar_one_or_none()
    if status not in {TaskStatus.FAILED, TaskStatus.PREEMPTED}:
        raise Conflict("Only a failed or preempted task can be retried.", state=state.status)
    _reset_task(tx, state, number)
    return _record_retry(tx, actor, state, plan, [number])


def _plan_to_retry(job: JobRow, state: JobState) -> TaskPlan:
    """The job's tasks. Raises Conflict if it was cancelled, failed as a whole, or its frames are unknown."""
    plan = plan_of(job)
    if state.cancel_ms is not None or state.failed_cause is not None or plan is None:
        raise Conflict(
            f"The job is {state.status}; submit it again to render it.",
            state=state.status,
            allowed=["delete"],
        )
    return plan


def _record_retry(tx: Tx, actor: Actor, state: JobState, plan: TaskPlan, numbers: list[int]) -> list[str]:
    width = plan.number_width
    names = [f"{n:0{width}d}" for n in numbers]
    job_id = state.job_id
    state.emit(tx, actor.name, "job.retry", {"tasks": names[:100]})
    job_states.save(tx, state, actor.name)
    instruct_job(tx, job_id)
    audit(tx, actor, "job.retry", job_id, after={"tasks": names[:100]})
    return names


def _failed_tasks(tx: Tx, job_id: str) -> list[int]:
    query = sa.select(tasks.c.number).where(tasks.c.job_id == job_id, _ENDED_BADLY)
    return list(tx.conn.execute(query.order_by(tasks.c.number)).scalars())


_ENDED_BADLY = tasks.c.status.in_([str(TaskStatus.FAILED), str(TaskStatus.PREEMPTED)])


def _reset_task(tx: Tx, state: JobState, number: int, **more: object) -> None:
    """Set a task back to pending, with all its retries. `more`: other columns to set."""
    key = (tasks.c.job_id == state.job_id) & (tasks.c.number == number)
    before = tx.conn.execute(sa.select(tasks.c.status, tasks.c.attempt_id).where(key)).one()
    if before.attempt_id is not None:
        ownership.displace(tx, before.attempt_id)
    task_rows.change(tx, state.job_id, number, task_rows.RESET | more)
    state.move(number, before.status, TaskStatus.PENDING)


def _reset_failed_tasks(tx: Tx, state: JobState) -> None:
    """Set all failed and preempted tasks back to pending, in a few statements however many there are."""
    which = (tasks.c.job_id == state.job_id) & _ENDED_BADLY
    ownership.displace_owners(tx, which)
    scout = tasks.c.number < state.scout_count
    counts = sa.select(tasks.c.status, scout, sa.func.count()).where(which)
    for status, are_scouts, count in tx.conn.execute(counts.group_by(tasks.c.status, scout)).all():
        state.move_many(count, status, TaskStatus.PENDING, scouts=bool(are_scouts))
    task_rows.reset_where(tx, which)


def _redo(tx: Tx, state: JobState, plan: TaskPlan, spec: str) -> list[int]:
    """Have these frames rendered again, also committed ones, at the next revision. Returns task numbers."""
    try:
        parsed = grammar.parse_frames(spec)
    except FrameSpecError as error:
        raise InvalidInput.of("frames", str(error), spec[:200]) from None
    if isinstance(parsed, Pick):
        raise InvalidInput.of("frames", "must name frames, not fml or auto", spec[:200])
    if len(parsed) > MAX_REDO:
        raise InvalidInput.of("frames", f"names more than {MAX_REDO} frames; retry them in parts", spec[:200])
    by_task: dict[int, list[int]] = {}
    for frame in parsed:
        try:
            by_task.setdefault(plan.task_of(frame), []).append(frame)
        except (KeyError, ValueError):
            raise InvalidInput.of("frames", f"frame {frame} is not one of the job's", spec[:200]) from None
    for number, numbers in by_task.items():
        _redo_task(tx, state, plan, number, numbers)
    return sorted(by_task)


def _redo_task(tx: Tx, state: JobState, plan: TaskPlan, number: int, frame_numbers: list[int]) -> None:
    """Reset a task to these frames, and those that it still lacks, at the next revision."""
    key = (tasks.c.job_id == state.job_id) & (tasks.c.number == number)
    task = tx.row_or_none(TaskRow, sa.select(tasks).where(key))
    if task is None or task.status is TaskStatus.RUNNING:
        doing = "is being rendered" if task else "was not begun yet"
        raise Conflict(f"Task {number} {doing}: its frames can be retried once it has ended.")
    done = sa.select(frames.c.frame).where(
        frames.c.job_id == state.job_id,
        frames.c.task_number == number,
        frames.c.revision >= task.revision,
    )
    lacking: set[int] = set()
    if task.status is not TaskStatus.SUCCESS:
        due = FrameSet.from_text(task.redo) if task.redo else plan.frames_of(number)
        lacking = set(due).difference(tx.conn.execute(done).scalars())
    redo = FrameSet.of(sorted(lacking.union(frame_numbers)))
    _reset_task(tx, state, number, revision=task.revision + 1, redo=redo.to_text())
