"""The runner's calls: hello, inputs, sync, report. Each renews the session's lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import Conflict, FarmError, NotAuthenticated
from framefarm.core.paths import normalise
from framefarm.core.session_lease import SessionState
from framefarm.protocol import node as msg
from framefarm.server.accounts.tables import accounts
from framefarm.server.catalog.tables import packages
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.rows import JobRow, JobStateRow, PackageRow, SessionRow
from framefarm.server.sessions import ownership
from framefarm.server.sessions.assignment import OpenAttempt, assign_tasks, desired, open_attempts
from framefarm.server.sessions.reports import Reporter
from framefarm.server.sessions.tables import leases, sessions
from framefarm.server.storage import keys
from framefarm.server.tenancy import farmwide


class SessionOver(FarmError):
    """The session has ended, or other sessions took all its tasks; its runner ends (410)."""

    title = "This session is over"


class ReportGap(Conflict):
    """A report came out of order; `expected` is the number to send next (409)."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"The next report is number {expected}.", expected=expected)
        self.expected = expected


def hello(tx: Tx, context: AppContext, session_id: str, token: str, body: msg.Hello) -> msg.SessionConfig:
    """Take a runner's first call; returns all that it needs to render.

    Raises NotAuthenticated, SessionOver; Conflict for another protocol, or a session that is not `starting`.
    """
    session = _session(tx, context, session_id, token)
    if body.protocol not in {msg.PROTOCOL_VERSION, msg.PROTOCOL_VERSION - 1} or body.protocol < 1:
        raise Conflict(f"This farm speaks node protocol {msg.PROTOCOL_VERSION}.")
    starting = (sessions.c.id == session_id) & (sessions.c.state == SessionState.STARTING)
    change = {"state": SessionState.READY, "hello_ms": tx.now_ms, "idle_since_ms": tx.now_ms}
    if not tx.conn.execute(farmwide(sa.update(sessions)).where(starting).values(change)).rowcount:
        raise Conflict("This session was already taken, or is over.", state=session.state)
    renew(tx, context, [session_id])
    job = tx.row(JobRow, farmwide(sa.select(jobs)).where(jobs.c.id == session.job_id))
    package = tx.row(PackageRow, sa.select(packages).where(packages.c.id == job.package_id))
    allow = farmwide(sa.select(accounts.c.allow_scripts)).where(accounts.c.id == job.account_id)
    assert job.scene_path is not None  # a session starts once the scene is read
    request = job.request
    return msg.SessionConfig(
        job=job.id,
        account=job.account_id,
        package=msg.Package(id=package.id, kind=package.kind, path=package.path, release=package.release),
        scene_path=job.scene_path,
        stem=normalise(job.scene_path).stem,
        output_name=request.get("output_name") or "",
        render=msg.RenderSettings(
            engine=request["render_software"],
            scene=request.get("scene"),
            camera=request.get("camera"),
            view_layers=tuple(request.get("view_layers") or ()),
            resolution_percentage=request.get("resolution_percentage"),
            samples=request.get("samples"),
        ),
        environment=request["environment_variables"],
        addons=request.get("addons", []),
        fresh_scene_per_task=bool((job.scene or {}).get("unbaked_simulations")),
        allow_scripts=tx.conn.execute(allow).scalar_one(),
        staging=str(context.store.path(keys.staging(job.account_id))),
        logs=str(context.store.path(keys.logs(job.account_id))),
        thumbnails=str(context.store.path(keys.thumbnails(job.account_id, job.id))),
        lease_seconds=context.settings.lease_seconds,
        disconnected_seconds=context.settings.disconnected_budget_seconds,
        gathering_bytes=context.settings.gathering_bytes,
        max_task_runtime_seconds=request.get("max_task_runtime_seconds"),
        no_progress_seconds=context.settings.no_progress_seconds,
    )


def manifest_of(
    tx: Tx, context: AppContext, session_id: str, token: str
) -> tuple[str, str, Sequence[tuple[str, str]]]:
    """(account, manifest SHA-256, aliases) of the session's job, for the inputs call. An alias is a pair: the
    input's path as the scene spells it, and as it was uploaded. Raises NotAuthenticated, SessionOver."""
    session = _session(tx, context, session_id, token)
    query = farmwide(sa.select(jobs.c.account_id, jobs.c.manifest_sha256, jobs.c.scene)).where(
        jobs.c.id == session.job_id
    )
    row = tx.conn.execute(query).one()
    return row.account_id, row.manifest_sha256, (row.scene or {}).get("aliases", ())


def job_of(tx: Tx, context: AppContext, session_id: str, token: str) -> str:
    """Id of the session's job. Raises NotAuthenticated, SessionOver."""
    return _session(tx, context, session_id, token).job_id


def desired_unless_due(tx: Tx, context: AppContext, session_id: str, token: str) -> msg.DesiredState | None:
    """The desired state as stored; None where `sync` has to assign tasks or bring back a lost session.

    Raises NotAuthenticated, SessionOver.
    """
    session = _session(tx, context, session_id, token)
    if session.state is SessionState.LOST:
        return None
    state = tx.row(JobStateRow, _state_of(session.job_id))
    held = open_attempts(tx, session_id)
    facts = job_states.facts(state)
    if facts.ready and not held and not session.drain and not session.cancel:
        return None
    return desired(session, facts, held, context.settings.lease_seconds, tx.now_ms)


def sync(tx: Tx, context: AppContext, session_id: str, token: str) -> msg.DesiredState:
    """Renew the lease, assign tasks, and return the desired state. Raises NotAuthenticated, SessionOver."""
    session, state = _locked(tx, context, session_id, token)
    renew(tx, context, [session_id])
    held = _assign_or_idle(tx, session, state, open_attempts(tx, session.id))
    job_states.save(tx, state)
    return desired(session, state.facts, held, context.settings.lease_seconds, tx.now_ms)


def report(tx: Tx, context: AppContext, session_id: str, token: str, body: msg.Report) -> msg.ReportReply:
    """Apply a report, once; then assign tasks, so that the reply carries the next ones.

    Raises NotAuthenticated, SessionOver, ReportGap.
    """
    session, state = _locked(tx, context, session_id, token)
    if body.seq > session.last_seq + 1:
        raise ReportGap(session.last_seq + 1)
    status = state.status
    work = None
    verdicts: list[msg.Verdict] = []
    if body.seq == session.last_seq + 1:
        reporter = Reporter(tx, session, state)
        work = reporter.work
        verdicts = reporter.apply(body.events)
        session.last_seq = body.seq
        tx.conn.execute(_REPORTED, {"session": session_id, "seq": body.seq})
        if work.changes.files:
            tx.wake("publish")
    held: Sequence[OpenAttempt] = []
    if not session.ended:
        held = open_attempts(tx, session.id) if work is None else list(work.owned.values())
        held = _assign_or_idle(tx, session, state, held)
    job_states.save(tx, state)
    # Plain progress wakes no listener: only changes that concern other sessions do.
    if session.ended or state.status != status or (work and work.gave_back):
        tx.wake(f"job:{session.job_id}", "dispatch")
    return msg.ReportReply(
        last_seq=session.last_seq,
        verdicts=verdicts,
        desired=desired(session, state.facts, held, context.settings.lease_seconds, tx.now_ms),
    )


def renew(tx: Tx, context: AppContext, session_ids: list[str]) -> None:
    """Renew the leases of these sessions, in one statement."""
    if session_ids:
        until = tx.now_ms + round(context.settings.lease_seconds * 1000)
        tx.conn.execute(
            sa.update(leases).where(leases.c.session_id.in_(session_ids)).values(expires_ms=until)
        )


def _assign_or_idle(
    tx: Tx, session: SessionRow, state: job_states.JobState, held: Sequence[OpenAttempt]
) -> Sequence[OpenAttempt]:
    """Assign tasks to a session with the open attempts `held`; one without any becomes idle, also if it was
    `ready`. Returns its open attempts."""
    held = assign_tasks(tx, session, state, held)
    if not held and session.state in {SessionState.READY, SessionState.RENDERING}:
        session.state, session.idle_since_ms = SessionState.IDLE, tx.now_ms
        tx.conn.execute(_IDLE, {"session": session.id, "now_ms": tx.now_ms})
        tx.wake("dispatch")
    return held


_SESSION = farmwide(sa.select(sessions)).where(sessions.c.id == sa.bindparam("session"))
_CHANGE = farmwide(sa.update(sessions)).where(sessions.c.id == sa.bindparam("session"))
_IDLE = _CHANGE.values(state=SessionState.IDLE, idle_since_ms=sa.bindparam("now_ms"))
_REPORTED = _CHANGE.values(last_seq=sa.bindparam("seq"))


def _locked(
    tx: Tx, context: AppContext, session_id: str, token: str
) -> tuple[SessionRow, job_states.JobState]:
    """The session, read while its job's row is locked. A lost session that still owns a task is brought back.
    Raises NotAuthenticated, SessionOver."""
    session = _session(tx, context, session_id, token)
    state = job_states.lock(tx, session.job_id)
    if tx.conn.dialect.name != "sqlite":  # PostgreSQL: it may have changed during the wait for the lock
        session = _session(tx, context, session_id, token)
    if session.state is SessionState.LOST:
        if not ownership.bring_back(tx, session, state):
            raise SessionOver("The machine did not answer for too long: others have taken all its tasks.")
        renew(tx, context, [session_id])
        state.emit(tx, "system", "session.back", {"session": session_id})
    return session, state


def _session(tx: Tx, context: AppContext, session_id: str, token: str) -> SessionRow:
    """The session's row, its token checked. Raises NotAuthenticated, SessionOver."""
    row = tx.row_or_none(SessionRow, _SESSION, {"session": session_id})
    if row is None or row.token_hash != context.keys.digest("session", token):
        raise NotAuthenticated("The session's token is not valid.")
    if row.ended:
        raise SessionOver(row.end_message or "The farm has ended this session.")
    return row


def _state_of(job_id: str) -> sa.Select[Any]:
    return farmwide(sa.select(job_state)).where(job_state.c.job_id == job_id)
