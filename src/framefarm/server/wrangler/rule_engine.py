"""Loop of the leader that applies wrangler rules.

It reads facts, `core/wrangler` decides, and each action runs in a transaction of its own, under the job's
lock, after a second check that it is still due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from framefarm.core import wrangler as rules
from framefarm.core.failure_codes import explain
from framefarm.core.job import JobStatus, TaskStatus
from framefarm.core.session_lease import SessionState
from framefarm.core.task_outcomes import Outcome
from framefarm.core.wrangler import Action, Fact, MaxTaskRuntime, Rule, SpotToOnDemand, StalledUpload
from framefarm.protocol import node as msg
from framefarm.server.accounts.audit import audit
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs import warnings
from framefarm.server.jobs.state import JobState, facts
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.loops import repeat
from framefarm.server.rows import JobStateRow, RuleRow, SessionRow
from framefarm.server.sessions.instructions import instruct
from framefarm.server.sessions.session_work import SessionWork
from framefarm.server.sessions.tables import attempts, sessions
from framefarm.server.wrangler.tables import wrangler_actions, wrangler_rules

FARM_WIDE = "The leader applies the rules of all accounts."
log = structlog.get_logger(__name__)
POLL_SECONDS = 5.0
KINDS: dict[str, Callable[..., Rule]] = {
    "max_task_runtime": MaxTaskRuntime,
    "spot_to_on_demand": SpotToOnDemand,
    "stalled_upload": StalledUpload,
}


async def run(context: AppContext, require_lead: Callable[[Tx], None]) -> None:
    """Apply the rules every 5 seconds, for ever. `require_lead` raises NotLeader if another leads."""
    await repeat(lambda: run_pass(context, require_lead), seconds=POLL_SECONDS, failure="wrangling_failed")


async def run_pass(context: AppContext, require_lead: Callable[[Tx], None]) -> int:
    """Do all due actions of all accounts; returns how many."""
    done = 0
    for action in await context.db.read(due):
        try:
            done += await context.db.write(act, action, require_lead)
        except NotLeader:
            break
        except Exception:
            log.exception("rule_not_followed", rule=action.rule, job=action.job)
    return done


def due(tx: Tx, job_id: str | None = None) -> list[Action]:
    """Actions that are due now, for all jobs or for one."""
    enabled = sa.select(wrangler_rules).where(wrangler_rules.c.enabled)
    by_account: dict[str, list[Rule]] = {}
    for row in tx.rows(RuleRow, enabled.order_by(wrangler_rules.c.id)):
        rule = KINDS[row.kind](id=row.id, **row.terms)
        by_account.setdefault(row.account_id, []).append(rule)
    actions: list[Action] = []
    for account_id, account_rules in by_account.items():
        known_facts = facts_of(tx, account_id, account_rules, job_id)
        if known_facts:
            earlier = sa.select(
                wrangler_actions.c.rule_id, wrangler_actions.c.job_id, wrangler_actions.c.subject
            ).where(
                wrangler_actions.c.account_id == account_id,
                wrangler_actions.c.job_id.in_({fact.job for fact in known_facts}),
            )
            done = {(rule, job, subject) for rule, job, subject in tx.conn.execute(earlier)}
            actions += rules.evaluate(known_facts, account_rules, tx.now_ms, done)
    return actions


# ------------------------------------------------------------------------------------ facts


def facts_of(tx: Tx, account_id: str, account_rules: list[Rule], job_id: str | None) -> list[Fact]:
    """Facts that the account's rules may apply to: those old enough for one of them."""
    account_facts: list[Fact] = []
    if runtimes := [r.seconds for r in account_rules if isinstance(r, MaxTaskRuntime)]:
        account_facts += _running(tx, account_id, job_id, tx.now_ms - min(runtimes) * 1000)
    if waits := [r for r in account_rules if isinstance(r, SpotToOnDemand)]:
        account_facts += _waiting(
            tx, account_id, job_id, tx.now_ms - min(r.wait_seconds for r in waits) * 1000
        )
    if any(isinstance(r, StalledUpload) for r in account_rules):
        account_facts += _syncing(tx, account_id, job_id)
    return account_facts


def _running(tx: Tx, account_id: str, job_id: str | None, before_ms: int) -> list[Fact]:
    """Attempts in work, without those of lost sessions: their tasks wait for the next session."""
    query = (
        sa.select(attempts.c.job_id, attempts.c.task_number, attempts.c.id, attempts.c.started_ms).join(
            sessions, sessions.c.id == attempts.c.session_id
        )
    ).where(
        attempts.c.outcome.is_(None),
        attempts.c.account_id == account_id,
        attempts.c.started_ms < before_ms,
        sessions.c.state != SessionState.LOST,
    )
    rows = tx.conn.execute(_of(query, attempts, job_id).order_by(attempts.c.id))
    return [rules.RunningAttempt(job, task, attempt, started) for job, task, attempt, started in rows]


@dataclass(slots=True)
class _WaitingJob(JobStateRow):
    last_ended_ms: int | None


def _waiting(tx: Tx, account_id: str, job_id: str | None, before_ms: int) -> list[Fact]:
    """Preemptible jobs with ready tasks and no session, since the last session ended or the status began."""
    last = sa.select(sa.func.max(sessions.c.ended_ms)).where(sessions.c.job_id == job_state.c.job_id)
    live = sa.select(sessions.c.id).where(
        sessions.c.job_id == job_state.c.job_id, sessions.c.ended.is_(False)
    )
    query = (
        sa.select(job_state, last.scalar_subquery().label("last_ended_ms")).join(
            jobs, jobs.c.id == job_state.c.job_id
        )
    ).where(
        job_state.c.account_id == account_id,
        job_state.c.status.in_([JobStatus.PENDING, JobStatus.RUNNING]),
        job_state.c.status_since_ms <= before_ms,
        jobs.c.preemptible,
        ~live.exists(),
    )
    waiting: list[Fact] = []
    for job in tx.rows(_WaitingJob, _of(query, job_state, job_id)):
        if facts(job).ready:
            since = max(job.status_since_ms, job.last_ended_ms or 0)
            waiting.append(rules.WaitingJob(job.job_id, job.priority, since))
    return waiting


def _syncing(tx: Tx, account_id: str, job_id: str | None) -> list[Fact]:
    query = sa.select(job_state).where(
        job_state.c.account_id == account_id, job_state.c.status == JobStatus.SYNCING
    )
    return [
        rules.SyncingJob(job.job_id, job.missing, max(job.status_since_ms, job.arrived_ms or 0))
        for job in tx.rows(JobStateRow, _of(query, job_state, job_id))
    ]


def _of(query: sa.Select[Any], table: sa.Table, job_id: str | None) -> sa.Select[Any]:
    return query if job_id is None else query.where(table.c.job_id == job_id)


# ---------------------------------------------------------------------------------- actions


def act(tx: Tx, planned: Action, require_lead: Callable[[Tx], None]) -> bool:
    """Do an action if it is still due; returns whether it was. Raises NotLeader."""
    require_lead(tx)
    state = job_states.lock(tx, planned.job)
    still_due = [a for a in due(tx, planned.job) if (a.rule, a.subject) == (planned.rule, planned.subject)]
    if not still_due:
        return False
    (action,) = still_due
    actor = f"rule:{action.rule}"
    before: dict[str, object] = {"status": state.status}
    if action.do in {"kill", "retry"}:
        _end_attempt(tx, state, action)
    elif action.do == "on_demand":
        _go_on_demand(tx, state)
        before["preemptible"] = True
    elif action.do == "fail":
        state.failed_cause = "upload_stalled"
        state.failed_message = explain("upload_stalled", {"what": action.reason})
    else:
        code = "upload_waits" if action.do == "remind" else "task_runs_long"
        text = explain(code, {"what": action.reason})
        warnings.add(tx, action.job, [msg.NodeWarning(code=code, message=text, subject=action.subject)])
    state.emit(
        tx, actor, "rule.acted",
        {"rule": action.rule, "action": action.do, "task": action.task, "reason": action.reason},
    )  # fmt: skip
    job_states.save(tx, state, actor)
    tx.conn.execute(
        sa.insert(wrangler_actions).values(
            rule_id=action.rule,
            job_id=action.job,
            subject=action.subject,
            account_id=state.account_id,
            at_ms=tx.now_ms,
            reason=action.reason,
        )
    )
    after = {"status": state.status, "reason": action.reason, "task": action.task}
    audit(tx, actor, f"rule.{action.do}", action.job, account_id=state.account_id, before=before, after=after)
    return True


def _end_attempt(tx: Tx, state: JobState, action: Action) -> None:
    """End the attempt as a failure that the job pays for, and stop its session; its other tasks go back."""
    session_id = sa.select(attempts.c.session_id).where(attempts.c.id == action.attempt)
    query = sa.select(sessions).where(sessions.c.id == tx.conn.execute(session_id).scalar_one())
    session = tx.row(SessionRow, query)
    work = SessionWork(tx, session, state)
    attempt = work.owned.get(action.attempt or "")
    if attempt is not None:
        text = explain("rule_runtime", {"what": action.reason})
        work.end(
            attempt, Outcome.TIMED_OUT, tx.now_ms - (attempt.started_ms or tx.now_ms), "rule_runtime", text
        )
        change = work.task_change(attempt)
        if action.do == "kill" and change["status"] is TaskStatus.PENDING:
            change.update(status=TaskStatus.FAILED, not_before_ms=None)
            state.move(attempt.task_number, TaskStatus.PENDING, TaskStatus.FAILED)
        work.write()
    instruct(tx, session.id, cancel=True)
    tx.wake(f"job:{state.job_id}", "dispatch")


def _go_on_demand(tx: Tx, state: JobState) -> None:
    statement = sa.update(jobs).where(jobs.c.id == state.job_id)
    tx.conn.execute(statement.values(preemptible=False))
    tx.wake("dispatch")
