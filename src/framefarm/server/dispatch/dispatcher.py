"""The dispatcher: the leader's loop that decides which sessions start, drain and end.

Each tick reads the engine, judges sessions by it and by their leases, plans, inserts the new sessions, then
instructs the engine. It decides from the state it reads, never from single events. The leader has an epoch; a
dispatcher that finds another epoch in the database stops deciding.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from dataclasses import dataclass, field

import sqlalchemy as sa
import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.core import schedule
from framefarm.core.job import FINISHED
from framefarm.core.node_departure import preempt_until_ms, preemption_starts_ms
from framefarm.core.node_health import NodeState
from framefarm.core.session_lease import SessionState
from framefarm.server.budgets import enforcement as budgets
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.dispatch import capacity, demand, reconcile, waiting_reasons
from framefarm.server.dispatch.leader import LeaderLease, NotLeader
from framefarm.server.engines.base import Capacity, Engine, Notice, SessionSpec
from framefarm.server.ids import new_id
from framefarm.server.jobs.tables import job_state
from framefarm.server.nodes import service as nodes
from framefarm.server.rows import InstanceTypeRow, NodeRow
from framefarm.server.sessions import expiry
from framefarm.server.sessions.attempt_price import price_of
from framefarm.server.sessions.instructions import instruct
from framefarm.server.sessions.tables import leases, sessions

FARM_WIDE = "The leader schedules the jobs of all accounts."
log = structlog.get_logger(__name__)
IDLE_TICK_SECONDS = 10.0
"""Time between ticks while there is no session and no job with work."""
STOP_GRACE_SECONDS = 5.0
LINGER_SECONDS = 0.1
"""Time to the next tick while work waits for a slot whose runner is ending."""


@dataclass(frozen=True)
class EngineView:
    """Observations of the engine; None where it did not answer."""

    observed: reconcile.Observations = None
    capacity: list[Capacity] | None = None
    notices: list[Notice] = field(default_factory=list)


@dataclass
class Decisions:
    """Instructions of a tick for the engine."""

    start: list[SessionSpec] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    pause_seconds: float = math.inf
    """Time after which another tick is due."""


class Dispatcher:
    """Runs one tick after the other while it leads; `run` never returns."""

    def __init__(self, context: AppContext, engine: Engine, holder: str) -> None:
        self.context, self.engine = context, engine
        self.lead = LeaderLease(context.settings, holder)
        self.available: dict[str, int] = {}
        """Instance type → number of sessions that could start now, for the catalog."""
        self.paused_since_ms = 0
        self.paused_until_ms: int | None = None
        """Time in ms at which the next pause of a task ends."""
        self.stopping: dict[str, asyncio.Task[None]] = {}
        """Session → its stop in progress, which ticks do not wait for: it may take the whole grace."""

    async def run(self) -> None:
        pulse = min(2.0, self.context.settings.lease_seconds / 10)
        leads, last_tick = False, 0.0
        try:
            async with self.context.hub.listen("dispatch") as woken:
                while True:
                    pause = pulse
                    try:
                        if not leads:
                            await self.context.db.write(self.lead.acquire)
                            leads, last_tick = True, 0.0
                            log.info("lead_taken", epoch=self.lead.epoch)
                        now = time.monotonic()
                        busy = await self.context.db.read(self._has_work)
                        if busy or now - last_tick >= IDLE_TICK_SECONDS:
                            last_tick = now
                            pause = min(pulse, await self.tick())
                        else:
                            await self.context.db.write(self.lead.renew)
                    except NotLeader:
                        if leads:
                            log.warning("lead_lost")
                        leads, self.available, self.context.waiting = False, {}, {}
                    except Exception:
                        log.exception("dispatch_failed")
                    await woken.wait(pause)
        finally:
            # Even if taken while this ended, so that another dispatcher need not wait for a lease.
            if self.lead.epoch:
                await self.context.db.write(self.lead.release)

    def require_lead(self, tx: Tx) -> None:
        """Check the lead for the leader's other loops. Raises NotLeader."""
        self.lead.require(tx)

    async def tick(self) -> float:
        """Read the engine, decide, instruct the engine. Returns the seconds until another tick is due.

        Raises NotLeader.
        """
        view = await run_in_threadpool(self._read_engine)
        decided = await self.context.db.write(self._decide, view)
        for session_id in decided.stop:
            if session_id not in self.stopping:
                self.stopping[session_id] = asyncio.create_task(self._stop(session_id))
        for session_id in decided.forget:
            await run_in_threadpool(self.engine.forget, session_id)
        for spec in decided.start:
            try:
                await run_in_threadpool(self.engine.start, spec)
            except Exception as error:  # the other sessions still start
                log.warning("session_not_started", session=spec.id, error=str(error))
                await self.context.db.write(self._not_started, spec.id, str(error))
        return decided.pause_seconds

    def _read_engine(self) -> EngineView:
        try:
            return EngineView(
                self.engine.observe(), list(self.engine.capacity()), list(self.engine.notices())
            )
        except Exception:
            log.exception("engine_does_not_answer")
            return EngineView()

    async def _stop(self, session_id: str) -> None:
        try:
            await run_in_threadpool(self.engine.stop, session_id, STOP_GRACE_SECONDS)
        except Exception:
            log.exception("session_not_stopped", session=session_id)
        finally:
            del self.stopping[session_id]
            self.context.hub.wake("dispatch")

    def _not_started(self, tx: Tx, session_id: str, error: str) -> None:
        self.lead.renew(tx)
        text = f"The machine could not start a session: {error}."
        expiry.lose_session(tx, session_id, "not_started", text)

    def _has_work(self, tx: Tx) -> bool:
        """Whether there is a session to watch, or a job that could need one."""
        live = sa.select(sessions.c.id).where(~sessions.c.ended).limit(1)
        unfinished = sa.select(job_state.c.job_id).where(demand.unfinished()).limit(1)
        return any(tx.conn.execute(q).first() is not None for q in (live, unfinished))

    # -- a tick's transaction

    def _decide(self, tx: Tx, view: EngineView) -> Decisions:
        self.lead.renew(tx)
        settings = self.context.settings
        judged = reconcile.judge_sessions(tx, settings, view.observed, self.lead.since_ms)
        decided = Decisions(stop=judged.stop, forget=judged.forget)
        budget_pass = budgets.run_pass(tx, settings)
        live = demand.live_sessions(tx)
        self._end_finished_jobs(tx, live)
        survey = nodes.survey(tx, settings, view.capacity, view.notices, self.lead.steady_ms)
        self._leave_nodes(tx, live, survey.rows)
        shown = view.capacity or []
        usable = capacity.open_to_sessions(shown, survey.rows)
        free = capacity.room(usable, [*live, *judged.lingering], survey.rows)
        totals = [c.total for c in usable]
        demands, types = demand.demand(tx, live, survey.avoided)
        plan = schedule.plan(
            demands,
            free,
            demand.slots_held(live),
            now_ms=tx.now_ms,
            idle_ms=round(settings.idle_seconds * 1000),
            tenure_ms=round(settings.minimum_tenure_seconds * 1000),
            totals=totals,
        )
        demand_of = {d.job: d for d in demands}
        for start in plan.start:
            spec = self._write_session(tx, demand_of[start.job], start, types, budget_pass)
            decided.start += [spec] if spec is not None else []
        budget_pass.write_budgets()
        for session_id in plan.drain:
            instruct(tx, session_id, drain=True)
        until_ms = tx.now_ms + round(settings.preemption_grace_seconds * 1000)
        for session_id in plan.preempt:
            self._preempt(tx, session_id, until_ms)
        overdue = [s.id for s in live if s.preempt_ms is not None and s.preempt_ms <= tx.now_ms]
        decided.stop += [s for s in overdue if s not in decided.stop]
        self._wake_paused(tx)
        self.available = capacity.available(free, types)
        closed = waiting_reasons.closed_nodes(shown, survey.rows)
        self.context.waiting = waiting_reasons.waiting(
            live, free, totals, [demand_of[j] for j in plan.unmet], closed, survey.avoided
        )
        times_ms = [plan.next_ms, self.paused_until_ms, *(s.preempt_ms for s in live)]
        times_ms += self._node_times_ms(tx, survey.rows)
        times_ms += [until for avoided in survey.avoided.values() for until, _ in avoided.values()]
        later = [at for at in times_ms if at is not None and at > tx.now_ms]
        if later:
            decided.pause_seconds = (min(later) - tx.now_ms) / 1000
        if plan.preempt:
            decided.pause_seconds = min(decided.pause_seconds, settings.preemption_grace_seconds)
        if plan.unmet and judged.stop:
            decided.pause_seconds = min(decided.pause_seconds, LINGER_SECONDS)
        return decided

    def _wake_paused(self, tx: Tx) -> None:
        """Wake idle sessions of jobs with a task whose pause after a failure has ended."""
        if self.paused_until_ms is not None and self.paused_until_ms <= tx.now_ms:
            since, self.paused_since_ms = self.paused_since_ms, tx.now_ms
            for job_id in demand.jobs_with_ended_pause(tx, since):
                tx.wake(f"job:{job_id}")
        self.paused_until_ms = demand.next_pause_end_ms(tx)

    def _preempt(self, tx: Tx, session_id: str, until_ms: int, *, taken: bool = False) -> None:
        """Preempt a session: it may work on its frame until `until_ms`.

        `taken`: because its node departs; else its slot is needed for on-demand work.
        """
        instruct(tx, session_id, drain=True, preempt_ms=until_ms, taken=taken)

    def _leave_nodes(self, tx: Tx, live: list[demand.LiveSession], rows: dict[str, NodeRow]) -> None:
        """Have sessions leave nodes that are set aside, at the end of a task, and nodes about to depart.

        The latter leave before the departure, at the latest at the end of the frame in work.
        """
        for session in live:
            row = rows.get(session.node)
            if row is None:
                continue
            leaving_ms = row.leaving_ms
            if leaving_ms is not None:
                until_ms = preempt_until_ms(leaving_ms, tx.now_ms, **self._time_to_leave)
                if until_ms is not None and (session.preempt_ms is None or session.preempt_ms > until_ms):
                    self._preempt(tx, session.id, until_ms, taken=True)
                    session.preempt_ms, session.drain = until_ms, True
            if (leaving_ms is not None or row.standing == NodeState.SET_ASIDE) and not session.drain:
                instruct(tx, session.id, drain=True)
                session.drain = True

    def _node_times_ms(self, tx: Tx, rows: dict[str, NodeRow]) -> list[int | None]:
        """Times at which nodes get their trial, and at which sessions must leave departing nodes."""
        departures = [row.leaving_ms for row in rows.values() if row.leaving_ms is not None]
        trials = [row.until_ms for row in rows.values()]
        return trials + [preemption_starts_ms(at, tx.now_ms, **self._time_to_leave) for at in departures]

    @property
    def _time_to_leave(self) -> dict[str, int]:
        grace = self.context.settings.preemption_grace_seconds
        return {"grace_ms": round(grace * 1000), "stop_ms": round(STOP_GRACE_SECONDS * 1000)}

    def _end_finished_jobs(self, tx: Tx, live: list[demand.LiveSession]) -> None:
        """Drain the sessions of finished jobs."""
        for session in live:
            if not session.drain and session.job_status in FINISHED:
                instruct(tx, session.id, drain=True)
                session.drain = True

    def _write_session(
        self,
        tx: Tx,
        job_demand: schedule.Demand,
        start: schedule.Start,
        types: dict[str, InstanceTypeRow],
        budget_pass: budgets.BudgetPass,
    ) -> SessionSpec | None:
        """Insert a session of a job; None if its budgets have no money for another session."""
        price = price_of(types[job_demand.instance_type], preemptible=job_demand.preemptible)
        token = secrets.token_urlsafe(32)
        session_id = new_id("ses")
        allowed, cap_micros = budget_pass.first_slice(session_id, job_demand.job, price)
        if not allowed:
            return None
        tx.conn.execute(
            sa.insert(sessions).values(
                id=session_id,
                account_id=job_demand.account,
                job_id=job_demand.job,
                instance_type_id=job_demand.instance_type,
                preemptible=job_demand.preemptible,
                price_micros=price,
                cost_cap_micros=cap_micros,
                node=start.node,
                zone=start.zone,
                cores=job_demand.slot.cores,
                memory_bytes=job_demand.slot.memory_bytes,
                gpus=job_demand.slot.gpus,
                state=SessionState.STARTING,
                ended=False,
                token_hash=self.context.keys.digest("session", token),
                created_ms=tx.now_ms,
                version=1,
                drain=False,
                cancel=False,
                last_seq=0,
            )
        )
        expires_ms = tx.now_ms + round(self.context.settings.lease_seconds * 1000)
        tx.conn.execute(sa.insert(leases).values(session_id=session_id, expires_ms=expires_ms))
        slot = job_demand.slot
        return SessionSpec(
            session_id, token, start.node, start.zone, slot.cores, slot.memory_bytes, slot.gpus
        )
