"""The leader's side of budgets: in each of its ticks, sessions are given money, or stopped for want of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from framefarm.core import budget as rules
from framefarm.core import job as job_rules
from framefarm.core.budget import BudgetBalance, SessionReservation
from framefarm.core.failure_codes import explain
from framefarm.core.job import FINISHED, JobStatus
from framefarm.core.money import format_amount
from framefarm.protocol import node as msg
from framefarm.server.accounts.audit import audit
from framefarm.server.budgets.snapshot import BudgetSnapshot, LiveSession
from framefarm.server.budgets.status import terms_of
from framefarm.server.budgets.tables import budget_holds
from framefarm.server.catalog.prices import price_of
from framefarm.server.catalog.tables import instance_types
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs import warnings
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.rows import BudgetHoldRow
from framefarm.server.sessions.instructions import carry_out
from framefarm.server.tenancy import farmwide

STOP_MS = 6000
"""How long it takes at most from the decision to stop a session until its Blender is gone."""


def margins_ms(context: AppContext) -> tuple[int, int]:
    """(stop, drain): how early a session must have new money. The leader looks every 2 s or more often."""
    pulse_ms = round(min(2.0, context.settings.lease_seconds / 10) * 1000)
    return 2 * pulse_ms + STOP_MS, pulse_ms


@dataclass(frozen=True, slots=True)
class _HeldJob(BudgetHoldRow):
    """A job that a budget holds, with what a session of it costs."""

    preemptible: bool
    status: JobStatus
    price_micros: int
    preemptible_price_micros: int | None


@dataclass
class BudgetPass(BudgetSnapshot):
    """One look at all budgets. `first_slice` gives a session that is about to be written its money."""

    stopped: set[str] = field(default_factory=set)
    """Jobs held or cancelled in this turn."""

    def extend(self) -> None:
        """Sessions whose money runs out get a slice; where there is none, their job is held or cancelled."""
        takers = Counter(name for live in self.live.values() for name in live.purse.held)
        for live in self.live.values():
            if live.row["cancel"] or live.row["job_id"] in self.stopped:
                continue
            # A budget that drains and holds the job already has said its word: frames in work end.
            above = [
                self.pots[name]
                for name in self.above(live.row)
                if self.pots[name].mode == "stop" or (live.row["job_id"], name) not in self.holds
            ]
            if self._needs(live, above):
                rules.settle(live.purse, self.pots, live.row["spent_micros"])
                refused = self._ask(live.purse, above, live.running_micros, takers)
                if refused:
                    self._refuse(live.row["job_id"], refused)

    def _needs(self, live: LiveSession, above: list[BudgetBalance]) -> bool:
        fresh = live.row["spent_micros"] - live.purse.settled_micros
        stop_ms, _ = margins_ms(self.context)
        need = fresh + live.running_micros + rules.price_of(stop_ms, live.purse.price_micros)
        return any(p.limit_micros is not None and live.purse.held[p.id] < need for p in above)

    def _ask(
        self, purse: SessionReservation, above: list[BudgetBalance], running_micros: int, takers: Counter[str]
    ) -> tuple[str, ...]:
        stop_ms, drain_ms = margins_ms(self.context)
        return rules.ask(
            purse, above, running_micros=running_micros, stop_margin_ms=stop_ms, drain_margin_ms=drain_ms,
            takers=takers,
        ).refused  # fmt: skip

    def first_slice(self, session_id: str, job_id: str, price_micros: int) -> tuple[bool, int | None]:
        """(whether a session of the job may be written, its `cost_cap_micros`). Without money for it the job
        is held, unless sessions of it are at work: these go on with what they have."""
        if not self.rows:
            return True, None
        query = farmwide(sa.select(jobs.c.account_id, jobs.c.project_id)).where(jobs.c.id == job_id)
        job = dict(self.tx.conn.execute(query).mappings().one()) | {"job_id": job_id}
        above = [self.pots[name] for name in self.above(job)]
        if job_id in self.stopped:
            return False, None
        purse = SessionReservation(session_id, price_micros)
        takers = Counter(name for live in self.live.values() for name in live.purse.held)
        refused = self._ask(purse, above, 0, takers + Counter(pot.id for pot in above))
        if refused:
            if not any(live.row["job_id"] == job_id for live in self.live.values()):
                self._refuse(job_id, refused)
            return False, None
        row = job | {"cost_cap_micros": None, "spent_micros": 0, "cancel": False}
        self.live[session_id] = LiveSession(row, purse, 0)
        self.write_reservations(self.live[session_id])
        return True, purse.cap_micros(self.pots)

    def _refuse(self, job_id: str, refused: tuple[str, ...]) -> None:
        """No budget in `refused` has money for this job."""
        tx = self.tx
        state = job_states.lock(tx, job_id)
        self.stopped.add(job_id)
        facts = state.facts
        if facts.cancel_asked or JobStatus(state.status) in FINISHED:
            return
        first = self.rows[refused[0]]
        cancels = any(terms_of(self.rows[name]).cancels_at_limit for name in refused)
        stop = any(self.pots[name].mode == "stop" for name in refused)
        known = all((job_id, name) in self.holds for name in refused)
        if known and not cancels and not (stop and facts.running):
            return
        before = {"status": state.status, "holds": state.holds}
        made = job_rules.cancel(facts) if cancels else job_rules.hold(facts, drain=not stop, by="budget")
        carry_out(tx, state, made)
        for name in refused if not cancels else ():
            self._note_hold(state, self.rows[name])
        what = "budget.cancelled" if cancels else "budget.held"
        actor = f"budget:{first['id']}"
        data = {"budgets": list(refused), "mode": "stop" if stop else "drain", "reason": self._words(first)}
        state.emit(tx, actor, what, data)
        job_states.save(tx, state, actor)
        after = {"status": state.status, "holds": state.holds, "reason": data["reason"]}
        audit(tx, actor, what, job_id, account_id=state.account_id, before=before, after=after)

    def _words(self, row: dict[str, Any]) -> str:
        pot = self.pots[row["id"]]
        taken = format_amount(pot.spent_micros + pot.reserved_micros)
        return f"{taken} of the budget's {format_amount(row['amount_micros'])} are spent or set aside."

    def _note_hold(self, state: job_states.JobState, row: dict[str, Any]) -> None:
        key = (state.job_id, row["id"])
        values = {
            "limit_micros": terms_of(row).limit_micros,
            "period_start_ms": row["period_start_ms"],
            "at_ms": self.tx.now_ms,
        }
        if key in self.holds:
            mine = farmwide(sa.update(budget_holds)).where(
                budget_holds.c.job_id == key[0], budget_holds.c.budget_id == key[1]
            )
            self.tx.conn.execute(mine.values(values))
        else:
            names = {"job_id": key[0], "budget_id": key[1], "account_id": state.account_id}
            self.tx.conn.execute(sa.insert(budget_holds).values(names | values))
            self.holds.add(key)

    def lift(self) -> None:
        """Jobs go on once every budget that held them has money again, or is gone."""
        query = farmwide(
            sa.select(
                budget_holds, jobs.c.preemptible, job_state.c.status,
                instance_types.c.price_micros, instance_types.c.preemptible_price_micros,
            )
            .join(jobs, jobs.c.id == budget_holds.c.job_id)
            .join(job_state, job_state.c.job_id == budget_holds.c.job_id)
            .join(instance_types, instance_types.c.id == jobs.c.instance_type_id)
        ).order_by(budget_holds.c.job_id)  # fmt: skip
        for row in self.tx.rows(_HeldJob, query):
            if row.job_id in self.stopped:
                continue
            finished = row.status in FINISHED
            if not finished and not self._has_money(row):
                continue
            mine = (budget_holds.c.job_id == row.job_id) & (budget_holds.c.budget_id == row.budget_id)
            self.tx.conn.execute(farmwide(sa.delete(budget_holds)).where(mine))
            self.holds.discard((row.job_id, row.budget_id))
            if not finished and not any(job == row.job_id for job, _ in self.holds):
                self._go_on(row.job_id, row.budget_id)

    def _has_money(self, row: _HeldJob) -> bool:
        pot = self.pots.get(row.budget_id)
        if pot is None:
            return True
        price = price_of(row, preemptible=row.preemptible)
        began = self.rows[pot.id]["period_start_ms"]
        changed = row.limit_micros != pot.limit_micros or row.period_start_ms != began
        stop_ms, drain_ms = margins_ms(self.context)
        least = 2 * stop_ms if pot.mode == "stop" else drain_ms + rules.DRAIN_LEAST_MS
        return rules.enough_to_go_on(pot, price, changed=changed, least_ms=least)

    def _go_on(self, job_id: str, budget_id: str) -> None:
        state = job_states.lock(self.tx, job_id)
        before = {"status": state.status, "holds": state.holds}
        carry_out(self.tx, state, job_rules.lift(state.facts, "budget"))
        actor = f"budget:{budget_id}"
        state.emit(self.tx, actor, "budget.lifted", {"budget": budget_id})
        job_states.save(self.tx, state, actor)
        after = {"status": state.status, "holds": state.holds}
        audit(
            self.tx, actor, "budget.lifted", job_id, account_id=state.account_id, before=before, after=after
        )

    def watch_thresholds(self) -> None:
        """Warn, and cancel what has passed `cancel_at`."""
        for name, row in self.rows.items():
            terms, pot = terms_of(row), self.pots[name]
            at_work = [live for live in self.live.values() if name in live.purse.held]
            spent = pot.spent_micros + sum(
                live.row["spent_micros"] - live.purse.settled_micros + live.running_micros for live in at_work
            )
            if terms.warn_micros is not None and spent >= terms.warn_micros and not row["warned"]:
                row["warned"] = True
                self._warn(row, spent, {live.row["job_id"] for live in at_work})
            if terms.cancel_micros is not None and spent >= terms.cancel_micros:
                held = {job for job, budget in self.holds if budget == name}
                for job_id in sorted({live.row["job_id"] for live in at_work} | held):
                    self._cancel(row, job_id)

    def _warn(self, row: dict[str, Any], spent: int, at_work: set[str]) -> None:
        actor = f"budget:{row['id']}"
        facts = {"spent": format_amount(spent), "amount": format_amount(row["amount_micros"])}
        text = explain("budget_low", facts)
        for job_id in sorted(at_work):
            state = job_states.lock(self.tx, job_id)
            warnings.add(
                self.tx, job_id, [msg.NodeWarning(code="budget_low", message=text, subject=row["id"])]
            )
            state.emit(self.tx, actor, "budget.warned", {"budget": row["id"], "message": text})
            job_states.save(self.tx, state, actor)
        audit(self.tx, actor, "budget.warned", row["id"], account_id=row["account_id"], after=facts)

    def _cancel(self, row: dict[str, Any], job_id: str) -> None:
        state = job_states.lock(self.tx, job_id)
        if state.facts.cancel_asked or JobStatus(state.status) in FINISHED:
            return
        before = {"status": state.status, "holds": state.holds}
        carry_out(self.tx, state, job_rules.cancel(state.facts))
        actor, reason = f"budget:{row['id']}", self._words(row)
        state.emit(self.tx, actor, "budget.cancelled", {"budgets": [row["id"]], "reason": reason})
        job_states.save(self.tx, state, actor)
        self.stopped.add(job_id)
        after = {"status": state.status, "reason": reason}
        audit(
            self.tx,
            actor,
            "budget.cancelled",
            job_id,
            account_id=row["account_id"],
            before=before,
            after=after,
        )


def take(tx: Tx, context: AppContext) -> BudgetPass:
    """One look at all budgets, in the leader's transaction: settle, extend, hold, lift, warn. Call
    `first_slice` for each session that is to be written afterwards, and `write_budgets` in the end."""
    turn = BudgetPass(tx, context)
    turn.read()
    if turn.rows:
        turn.extend()
        turn.watch_thresholds()
    turn.lift()
    if turn.rows:
        turn.write()
    return turn
