"""What people do to jobs: hold, unhold, cancel, priority, retry, delete. One locked transaction each."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core import frames as grammar
from framefarm.core import job as rules
from framefarm.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from framefarm.core.frames import FrameSet, FrameSpecError, Pick, TaskPlan
from framefarm.core.job import FINISHED, JobStatus, TaskStatus
from framefarm.protocol.api_jobs import JobChange, Retry
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.billing import service as billing
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import job_dependencies, job_state, jobs, tasks
from framefarm.server.jobs.task_plans import plan_of
from framefarm.server.rows import JobRow, TaskRow
from framefarm.server.sessions import ownership
from framefarm.server.sessions.instructions import carry_out, instruct_job
from framefarm.server.sessions.tables import frames
from framefarm.server.tenancy import farmwide, scoped

SAME = {"holding": "hold", "pending": "unhold", "cancelled": "cancel"}
MAX_REDO = 10_000


def find(tx: Tx, actor: Actor, job_id: str) -> JobRow:
    """The job's row. Raises NotFound for another account's, too."""
    query = scoped(sa.select(jobs), jobs, actor.account_id).where(
        jobs.c.id == job_id, jobs.c.deleted_ms.is_(None)
    )
    row = tx.row_or_none(JobRow, query)
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


def find_to_change(tx: Tx, actor: Actor, job_id: str) -> JobRow:
    """Members change their own jobs, admins all of the account's."""
    actor.must_write()
    row = find(tx, actor, job_id)
    if not actor.is_admin and row.user_id != actor.user_id:
        raise NotAllowed("Members may change only their own jobs; ask an admin of the account.")
    return row


def _locked(tx: Tx, actor: Actor, job_id: str) -> tuple[JobRow, JobState]:
    """The job, to be changed, and its locked state. Looked at again: who waited for the lock may find it
    deleted."""
    find_to_change(tx, actor, job_id)
    state = job_states.lock(tx, job_id)
    return find(tx, actor, job_id), state


def change(tx: Tx, actor: Actor, job_id: str, said: JobChange) -> None:
    """PATCH: an action and/or a priority, all or nothing."""
    action = said.action or SAME.get(said.status or "")
    if said.action and said.status and SAME[said.status] != said.action:
        raise InvalidInput.of(
            "status", f"says {SAME[said.status]}, but action says {said.action}", said.status
        )
    if action is None and said.priority is None:
        raise InvalidInput.of("action", "give an action (hold, unhold, cancel) and/or a priority", None)
    _, state = _locked(tx, actor, job_id)
    before = {"status": state.status, "priority": state.priority, "holds": state.holds}
    if action is not None:
        _act(tx, actor, state, action, said.drain)
    if said.priority is not None and said.priority != state.priority:
        if state.status in FINISHED:
            raise Conflict(f"The job is {state.status}: its priority no longer matters.", state=state.status)
        state.priority = said.priority
        state.emit(tx, actor.name, "job.priority", {"priority": said.priority})
    if state.columns() == state.before:
        return
    job_states.save(tx, state, actor.name)
    after = {"status": state.status, "priority": state.priority, "holds": state.holds}
    audit(tx, actor, f"job.{action or 'priority'}", job_id, before=before, after=after)


def _act(tx: Tx, actor: Actor, state: JobState, action: str, drain: bool) -> None:
    facts = state.facts
    try:
        if action == "hold":
            made = rules.hold(facts, drain=drain)
        elif action == "unhold":
            made = rules.unhold(facts)
            if "dependency" in facts.holds:
                _accept_dependencies(tx, state)
        else:
            made = rules.cancel(facts)
    except rules.Refused as refused:
        raise Conflict(str(refused), state=state.status, allowed=_allowed(state)) from None
    carry_out(tx, state, made)


def _allowed(state: JobState) -> list[str]:
    if state.status in {JobStatus.SUCCESS, JobStatus.FAILED}:
        return ["retry", "delete"]
    return ["delete"] if state.status is JobStatus.CANCELLED else ["cancel"]


def _accept_dependencies(tx: Tx, state: JobState) -> None:
    """Jobs that ended badly are not waited for any more: their failure counts as accepted."""
    ended = farmwide(sa.select(job_state.c.job_id)).where(
        job_state.c.status.in_([str(JobStatus.FAILED), str(JobStatus.CANCELLED)])
    )
    row = (job_dependencies.c.job_id == state.job_id) & job_dependencies.c.depends_on.in_(ended)
    state.depends_left -= tx.conn.execute(farmwide(sa.delete(job_dependencies)).where(row)).rowcount


def delete(tx: Tx, actor: Actor, job_id: str) -> None:
    """Marks it; the collector empties it. Outputs that were delivered, usage and ledger stay."""
    _, state = _locked(tx, actor, job_id)
    if state.status not in FINISHED:
        raise Conflict(
            f"The job is {state.status}; only a finished job can be deleted. Cancel it first.",
            state=state.status,
            allowed=["cancel"],
        )
    mark_deleted(tx, state, actor.name, actor.request_id)


def mark_deleted(tx: Tx, state: JobState, who: str, request_id: str = "") -> None:
    """A finished, locked job does not exist any more."""
    mine = jobs.c.id == state.job_id
    tx.conn.execute(farmwide(sa.update(jobs)).where(mine).values(deleted_ms=tx.now_ms))
    state.emit(tx, who, "job.deleted", {})
    job_states.save(tx, state, who)
    audit(tx, who, "job.delete", state.job_id, account_id=state.account_id, request_id=request_id)


def retry(tx: Tx, actor: Actor, job_id: str, said: Retry) -> list[str]:
    """All failed and preempted tasks again, or exactly the frames asked for. Returns task numbers."""
    job, state = _locked(tx, actor, job_id)
    plan = _plan_to_retry(job, state)
    if said.frames is None:
        numbers = _failed(tx, job_id)
        if not numbers:
            raise Conflict("No task of this job has failed.", state=state.status)
        _all_again(tx, state)
    else:
        billing.must_have_credit(tx, actor.account_id)
        numbers = _redo(tx, state, plan, said.frames)
    return _retried(tx, actor, state, plan, numbers)


def retry_task(tx: Tx, actor: Actor, job_id: str, number: int) -> list[str]:
    """One failed or preempted task again."""
    job, state = _locked(tx, actor, job_id)
    plan = plan_of(job)
    if plan is None or not 0 <= number < plan.task_count:
        raise NotFound(f"Job {job_id} has no task {number}.")
    plan = _plan_to_retry(job, state)
    key = (tasks.c.job_id == job_id) & (tasks.c.number == number)
    status = tx.conn.execute(sa.select(tasks.c.status).where(key)).scalar_one_or_none()
    if status not in {TaskStatus.FAILED, TaskStatus.PREEMPTED}:
        raise Conflict("Only a failed or preempted task can be retried.", state=state.status)
    _again(tx, state, number)
    return _retried(tx, actor, state, plan, [number])


def _plan_to_retry(job: JobRow, state: JobState) -> TaskPlan:
    """The job's tasks. Raises Conflict if it was cancelled or failed as a whole, or its frames are unknown."""
    plan = plan_of(job)
    if state.cancel_ms is not None or state.failed_cause is not None or plan is None:
        raise Conflict(
            f"The job is {state.status}; submit it again to render it.",
            state=state.status,
            allowed=["delete"],
        )
    return plan


def _retried(tx: Tx, actor: Actor, state: JobState, plan: TaskPlan, numbers: list[int]) -> list[str]:
    width = plan.number_width
    names = [f"{n:0{width}d}" for n in numbers]
    job_id = state.job_id
    state.emit(tx, actor.name, "job.retry", {"tasks": names[:100]})
    job_states.save(tx, state, actor.name)
    instruct_job(tx, job_id)
    audit(tx, actor, "job.retry", job_id, after={"tasks": names[:100]})
    return names


def _failed(tx: Tx, job_id: str) -> list[int]:
    query = sa.select(tasks.c.number).where(tasks.c.job_id == job_id, _ENDED_BADLY)
    return list(tx.conn.execute(query.order_by(tasks.c.number)).scalars())


_ENDED_BADLY = tasks.c.status.in_([str(TaskStatus.FAILED), str(TaskStatus.PREEMPTED)])


FRESH_PATIENCE: dict[str, object] = {
    "status": TaskStatus.PENDING, "preemptions": 0, "failures": 0, "losses": 0, "not_before_ms": None,
    "cause": None, "reason": None,
}  # fmt: skip


def _again(tx: Tx, state: JobState, number: int, **more: object) -> None:
    """A task goes back to pending with fresh budgets of patience."""
    key = (tasks.c.job_id == state.job_id) & (tasks.c.number == number)
    was = tx.conn.execute(sa.select(tasks.c.status, tasks.c.attempt_id).where(key)).one()
    if was.attempt_id is not None:
        ownership.displace(tx, was.attempt_id)
    tx.conn.execute(sa.update(tasks).where(key).values(FRESH_PATIENCE | more))
    state.move(number, was.status, TaskStatus.PENDING)


def _all_again(tx: Tx, state: JobState) -> None:
    """All that ended badly goes back to pending, in a few statements however many there are."""
    which = (tasks.c.job_id == state.job_id) & _ENDED_BADLY
    ownership.displace_owners(tx, which)
    scout = tasks.c.number < state.scout_count
    counts = sa.select(tasks.c.status, scout, sa.func.count()).where(which)
    for status, are_scouts, count in tx.conn.execute(counts.group_by(tasks.c.status, scout)).all():
        state.move_many(count, status, TaskStatus.PENDING, scouts=bool(are_scouts))
    tx.conn.execute(sa.update(tasks).where(which).values(FRESH_PATIENCE))


def _redo(tx: Tx, state: JobState, plan: TaskPlan, spec: str) -> list[int]:
    """Render these frames again on purpose: committed ones get a next revision."""
    try:
        parsed = grammar.parse(spec)
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
    for number, wanted in by_task.items():
        _redo_task(tx, state, plan, number, wanted)
    return sorted(by_task)


def _redo_task(tx: Tx, state: JobState, plan: TaskPlan, number: int, wanted: list[int]) -> None:
    """These frames at the next revision, and with them those that the task still lacks."""
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
    redo = FrameSet.of(sorted(lacking.union(wanted)))
    _again(tx, state, number, revision=task.revision + 1, redo=redo.to_text())
