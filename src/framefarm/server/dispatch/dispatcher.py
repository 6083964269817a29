"""The dispatcher: decides sessions, only sessions. Level-triggered, one leader.

Each tick: look at the engine, settle what ended, judge leases, plan, write the new sessions down, then tell
the engine. The leader has an epoch; whoever finds another epoch in the database stops deciding.
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
from framefarm.core.job import FINISHED, SessionState
from framefarm.core.node_health import NodeState, leave, next_leave_ms
from framefarm.server.budgets import enforcement as budgets
from framefarm.server.catalog.prices import price_of
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
from framefarm.server.sessions.instructions import instruct
from framefarm.server.sessions.tables import leases, sessions
from framefarm.server.tenancy import farmwide

log = structlog.get_logger(__name__)
FULL_LOOK_SECONDS = 10.0
STOP_GRACE_SECONDS = 5.0
LINGER_SECONDS = 0.1
"""How soon to look again while work waits for a slot whose runner is on its way out."""


@dataclass(frozen=True)
class EngineView:
    """What the engine says. An engine that does not answer says nothing: then nothing is known."""

    observed: reconcile.Observations = None
    capacity: list[Capacity] | None = None
    notices: list[Notice] = field(default_factory=list)


@dataclass
class Decisions:
    """What a tick decided, for the engine to do."""

    start: list[SessionSpec] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    pause_seconds: float = math.inf


class Dispatcher:
    """One tick at a time; `run` is its life."""

    def __init__(self, context: AppContext, engine: Engine, holder: str) -> None:
        self.context, self.engine = context, engine
        self.lead = LeaderLease(context.settings, holder)
        self.available: dict[str, int] = {}
        """Instance type → sessions that could start now; for the catalogue."""
        self.paused_since_ms = 0
        self.paused_until_ms: int | None = None
        """When the next paused task is due."""
        self.stopping: dict[str, asyncio.Task[None]] = {}
        """Sessions that the engine is ending now: that may take its grace, and the leader must not wait."""

    async def run(self) -> None:
        pulse = min(2.0, self.context.settings.lease_seconds / 10)
        leads, full = False, 0.0
        try:
            async with self.context.hub.listen("dispatch") as woken:
                while True:
                    pause = pulse
                    try:
                        if not leads:
                            await self.context.db.write(self.lead.acquire)
                            leads, full = True, 0.0
                            log.info("lead_taken", epoch=self.lead.epoch)
                        now = time.monotonic()
                        busy = await self.context.db.read(self._anything)
                        if busy or now - full >= FULL_LOOK_SECONDS:
                            full = now
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
            if self.lead.epoch:  # taken while this ended, too: so that another one need not wait for a lease
                await self.context.db.write(self.lead.release)

    def require_lead(self, tx: Tx) -> None:
        """For the leader's other loops: raises NotLeader."""
        self.lead.require(tx)

    async def tick(self) -> float:
        """Look, decide, act, once. Returns the seconds after which time alone asks for another tick."""
        seen = await run_in_threadpool(self._look)
        decided = await self.context.db.write(self._decide, seen)
        for session_id in decided.stop:
            if session_id not in self.stopping:
                self.stopping[session_id] = asyncio.create_task(self._stop(session_id))
        for session_id in decided.forget:
            await run_in_threadpool(self.engine.forget, session_id)
        for spec in decided.start:
            try:
                await run_in_threadpool(self.engine.start, spec)
            except Exception as error:  # of this one; the others still start
                log.warning("session_not_started", session=spec.id, error=str(error))
                await self.context.db.write(self._not_started, spec.id, str(error))
        return decided.pause_seconds

    def _look(self) -> EngineView:
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

    def _anything(self, tx: Tx) -> bool:
        """Whether there is a session to watch or a job that could want one."""
        live = farmwide(sa.select(sessions.c.id)).where(~sessions.c.ended).limit(1)
        wanting = farmwide(sa.select(job_state.c.job_id)).where(demand.unfinished()).limit(1)
        return any(tx.conn.execute(q).first() is not None for q in (live, wanting))

    # -- a tick's transaction

    def _decide(self, tx: Tx, seen: EngineView) -> Decisions:
        self.lead.renew(tx)
        settled = reconcile.settle(tx, self.context, seen.observed, self.lead.since_ms)
        decided = Decisions(stop=settled.stop, forget=settled.forget)
        budget_pass = budgets.run_pass(tx, self.context.settings)
        live = demand.live_sessions(tx)
        self._end_finished_jobs(tx, live)
        machines = nodes.look(tx, self.context, seen.capacity, seen.notices, self.lead.steady_ms)
        standing, avoided = machines.rows, machines.avoided
        self._leave_nodes(tx, live, standing)
        nodes_seen = seen.capacity or []
        may = capacity.open_to_sessions(nodes_seen, standing)
        free = capacity.room(may, [*live, *settled.lingering], standing)
        totals = [c.total for c in may]
        wanted, types = demand.demand(tx, live, avoided)
        held = demand.slots_held(live)
        settings = self.context.settings
        plan = schedule.plan(
            wanted,
            free,
            held,
            now_ms=tx.now_ms,
            idle_ms=round(settings.idle_seconds * 1000),
            tenure_ms=round(settings.minimum_tenure_seconds * 1000),
            totals=totals,
        )
        demand_of = {d.job: d for d in wanted}
        for start in plan.start:
            spec = self._write_session(tx, demand_of[start.job], start, types, budget_pass)
            decided.start += [spec] if spec is not None else []
        budget_pass.write_budgets()
        for session_id in plan.drain:
            instruct(tx, session_id, drain=True)
        until = tx.now_ms + round(settings.preemption_grace_seconds * 1000)
        for session_id in plan.preempt:
            self._preempt(tx, session_id, until)
        overdue = [s.id for s in live if s.preempt_ms is not None and s.preempt_ms <= tx.now_ms]
        decided.stop += [s for s in overdue if s not in decided.stop]
        self._wake_paused(tx)
        self.available = capacity.available(free, types)
        shut = waiting_reasons.shut(nodes_seen, standing)
        self.context.waiting = waiting_reasons.waiting(
            live, free, totals, [demand_of[j] for j in plan.unmet], shut, avoided
        )
        moments = [plan.next_ms, self.paused_until_ms, *(s.preempt_ms for s in live)]
        moments += self._moments_of(tx, standing)
        moments += [until for mine in avoided.values() for until, _ in mine.values()]
        due = [m for m in moments if m is not None and m > tx.now_ms]
        if due:
            decided.pause_seconds = (min(due) - tx.now_ms) / 1000
        if plan.preempt:
            decided.pause_seconds = min(decided.pause_seconds, settings.preemption_grace_seconds)
        if plan.unmet and settled.stop:
            decided.pause_seconds = min(decided.pause_seconds, LINGER_SECONDS)
        return decided

    def _wake_paused(self, tx: Tx) -> None:
        """Tasks that pause after a failure: those that are due are told to idle sessions of their job."""
        if self.paused_until_ms is not None and self.paused_until_ms <= tx.now_ms:
            since, self.paused_since_ms = self.paused_since_ms, tx.now_ms
            for job_id in demand.due(tx, since):
                tx.wake(f"job:{job_id}")
        self.paused_until_ms = demand.next_due(tx)

    def _preempt(self, tx: Tx, session_id: str, until_ms: int, *, taken: bool = False) -> None:
        """Its slot goes to on-demand work, or (`taken`) its machine goes: it has until then for its frame in
        work."""
        instruct(tx, session_id, drain=True, preempt_ms=until_ms, taken=taken)

    def _leave_nodes(self, tx: Tx, live: list[demand.LiveSession], standing: dict[str, NodeRow]) -> None:
        """Sessions leave machines that are set aside, at a task's end; and those that are about to be taken
        before that happens, at the latest at the end of the frame in work."""
        for session in live:
            row = standing.get(session.node)
            if row is None:
                continue
            leaving, until = row.leaving_ms, None
            if leaving is not None:
                until = leave(leaving, tx.now_ms, **self._time_to_leave).preempt_until_ms
                if until is not None and (session.preempt_ms is None or session.preempt_ms > until):
                    self._preempt(tx, session.id, until, taken=True)
                    session.preempt_ms, session.drain = until, True
            if (leaving is not None or row.standing == NodeState.SET_ASIDE) and not session.drain:
                instruct(tx, session.id, drain=True)
                session.drain = True

    def _moments_of(self, tx: Tx, standing: dict[str, NodeRow]) -> list[int | None]:
        """When machines are tried again, and when sessions must leave those that are being taken."""
        leaving = [row.leaving_ms for row in standing.values() if row.leaving_ms is not None]
        tried = [row.until_ms for row in standing.values()]
        return tried + [next_leave_ms(at, tx.now_ms, **self._time_to_leave) for at in leaving]

    @property
    def _time_to_leave(self) -> dict[str, int]:
        grace = self.context.settings.preemption_grace_seconds
        return {"grace_ms": round(grace * 1000), "stop_ms": round(STOP_GRACE_SECONDS * 1000)}

    def _end_finished_jobs(self, tx: Tx, live: list[demand.LiveSession]) -> None:
        """Sessions of jobs that need none any more are drained at once."""
        for session in live:
            if not session.drain and session.job_status in FINISHED:
                instruct(tx, session.id, drain=True)
                session.drain = True

    def _write_session(
        self,
        tx: Tx,
        wanted: schedule.Demand,
        start: schedule.Start,
        types: dict[str, InstanceTypeRow],
        budget_pass: budgets.BudgetPass,
    ) -> SessionSpec | None:
        """None where the job's budgets have no money for another session."""
        price = price_of(types[wanted.instance_type], preemptible=wanted.preemptible)
        token = secrets.token_urlsafe(32)
        session_id = new_id("ses")
        may, cap_micros = budget_pass.first_slice(session_id, wanted.job, price)
        if not may:
            return None
        tx.conn.execute(
            sa.insert(sessions).values(
                id=session_id,
                account_id=wanted.account,
                job_id=wanted.job,
                instance_type_id=wanted.instance_type,
                preemptible=wanted.preemptible,
                price_micros=price,
                cost_cap_micros=cap_micros,
                node=start.node,
                zone=start.zone,
                cores=wanted.slot.cores,
                memory_bytes=wanted.slot.memory_bytes,
                gpus=wanted.slot.gpus,
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
        until = tx.now_ms + round(self.context.settings.lease_seconds * 1000)
        tx.conn.execute(sa.insert(leases).values(session_id=session_id, expires_ms=until))
        slot = wanted.slot
        return SessionSpec(
            session_id, token, start.node, start.zone, slot.cores, slot.memory_bytes, slot.gpus
        )
