"""What a job does about what Blender told when it first opened the scene: `on_blocked_scripts` and
`on_missing_files`. Whoever lifts the hold has accepted it: what was told once does not hold again.
"""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.failure_codes import explain
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs import failures
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import jobs
from framefarm.server.rows import SessionRow
from framefarm.server.sessions.instructions import cancel_pending, instruct_job
from framefarm.server.tenancy import farmwide

CHOICES = {"blocked_scripts": ("on_blocked_scripts", "hold"), "missing_file": ("on_missing_files", "warn")}
"""Code of a warning → the job's field, and what counts without it."""
STOPPED = "The job failed while this machine did not answer."


def judge(tx: Tx, session: SessionRow, state: JobState, fresh: list[msg.NodeWarning]) -> None:
    """Hold or fail the job, whose lock is held, for warnings that it did not have before."""
    told = {code: [n.subject for n in fresh if n.code == code] for code in CHOICES}
    if not any(told.values()):
        return
    row = farmwide(sa.select(jobs.c.request, jobs.c.warnings)).where(jobs.c.id == state.job_id)
    request, have = tx.conn.execute(row).one()
    for code, subjects in told.items():
        field, usual = CHOICES[code]
        asked = request.get(field, usual) if subjects else "warn"
        if asked == "fail":
            cause, message = _failure(code, subjects)
            _fail(tx, session, state, cause, message)
            return
        if asked == "hold" and sum(w["code"] == code for w in have) == len(subjects):
            job_states.add_hold(state, "rule")
            _instruct(tx, session, state)


def _failure(code: str, subjects: list[str]) -> tuple[str, str]:
    if code == "missing_file":
        error = failures.missing_files(sorted(subjects))
        return error.cause, error.message
    return "scripts_blocked", explain("scripts_blocked")


def _fail(tx: Tx, session: SessionRow, state: JobState, cause: str, message: str) -> None:
    """Fail the whole job: pending tasks are cancelled now, running ones when their session reports it."""
    state.failed_cause, state.failed_message = cause, message
    cancel_pending(tx, state, STOPPED)
    _instruct(tx, session, state, cancel=True)


def _instruct(tx: Tx, session: SessionRow, state: JobState, *, cancel: bool = False) -> None:
    """Instruct the job's sessions; `session` is the row of the one that reported."""
    instruct_job(tx, state.job_id, **({"cancel": True} if cancel else {}))
    session.version += 1
    session.cancel = session.cancel or cancel
