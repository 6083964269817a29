"""Budgets in the leader's tick: sessions get slices of money, jobs without are held or cancelled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from framefarm.core import budget as rules
from framefarm.core import job as job_rules
from framefarm.core.budget import BudgetBalance, SessionReservation
from framefarm.core.failure_codes import explain
from framefarm.core.job import FINISHED, JobStatus
from framefarm.core.money import format_amount
from framefarm.protocol import node as msg
from framefarm.server.accounts.audit import audit
from framefarm.server.budgets.snapshot import BudgetedJob, BudgetSnapshot, LiveSession, SessionCosts
from framefarm.server.budgets.status import terms_of
from framefarm.server.budgets.tables import budget_holds
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.jobs import state as job_states
from framefarm.server.jobs import warnings
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.rows import BudgetHoldRow, BudgetRow
from framefarm.server.sessions.attempt_price import price_of
from framefarm.server.sessions.instructions import carry_out
from framefarm.server.settings import Settings

FARM_WIDE = "The leader enforces the budgets of all accounts."
STOP_MS = 6000
"""Most time from the decision to stop a session until its Blender has ended."""


def margins_ms(settings: Settings) -> tuple[int, int]:
    """(stop, drain): how early a session needs new money. The leader ticks every 2 s or more often."""
    pulse_ms = round(min(2.0, settings.lease_seconds / 10) * 1000)
    return 2 * pulse_ms + STOP_MS, pulse_ms


@dataclass(frozen=True, slots=True)
class _HeldJob(BudgetHoldRow):
    """A job that a budget holds, with the prices of its instance type."""

    preemptible: bool
    status: JobStatus
    price_micros: int
    preemptible_price_micros: int | None


@dataclass
class BudgetPass(BudgetSnapshot):
    """Budgets during one tick of the leader."""

    stopped: set[str] = field(default_factory=set)
    """Jobs held or cancelled in this tick."""

    def extend(self) -> None:
        """Reserve a slice for each session that runs out of money; without one, hold or cancel its job."""
        takers = self._takers()
        for live in self.live.values():
            job_id = live.row.job_id
            if live.row.cancel or job_id in self.stopped:
                continue
            # A draining budget that already holds the job does not act again: frames in work end.
            above = [
                self.balances[budget]
                for budget in self.above(live.row)
                if self.balances[budget].mode == "stop" or (job_id, budget) not in self.holds
            ]
            if self._needs_money(live, above):
                rules.settle(live.reservation, self.balances, live.row.spent_micros)
                refused = self._ask(live.reservation, above, live.running_micros, takers)
                if refused:
                    self._refuse(job_id, refused)

    def _takers(self) -> Counter[str]:
        """Budget → sessions that reserve from it."""
        return Counter(budget for live in self.live.values() for budget in live.reservation.held)

    def _needs_money(self, live: LiveSession, above: list[BudgetBalance]) -> bool:
        reservation = live.reservation
        unsettled = live.row.spent_micros - reservation.settled_micros
        stop_ms, _ = margins_ms(self.settings)
        need = unsettled + live.running_micros + rules.cost_rounded_up(stop_ms, reservation.price_micros)
        return any(b.limit_micros is not None and reservation.held[b.id] < need for b in above)

    def _ask(
        self,
        reservation: SessionReservation,
        above: list[BudgetBalance],
        running_micros: int,
        takers: Counter[str],
    ) -> tuple[str, ...]:
        """Reserve a slice from each budget that needs it; returns the ids of budgets without money."""
        stop_ms, drain_ms = margins_ms(self.settings)
        return rules.reserve(
            reservation, above, running_micros=running_micros, stop_margin_ms=stop_ms,
            drain_margin_ms=drain_ms, takers=takers,
        ).refused  # fmt: skip

    def first_slice(self, session_id: str, job_id: str, price_micros: int) -> tuple[bool, int | None]:
        """Reserve the first slice of a session that is about to be inserted; `price_micros` per hour.

        Returns (whether it may be inserted, its `cost_cap_micros`). A job without money for it is held or
        cancelled, unless it has live sessions: these continue with their reservations.
        """
        if not self.rows:
            return True, None
        query = sa.select(jobs.c.account_id, jobs.c.project_id).where(jobs.c.id == job_id)
        account_id, project_id = self.tx.conn.execute(query).one()
        job = BudgetedJob(job_id, account_id, project_id)
        above = [self.balances[budget] for budget in self.above(job)]
        if job_id in self.stopped:
            return False, None
        reservation = SessionReservation(session_id, price_micros)
        takers = self._takers() + Counter(balance.id for balance in above)
        refused = self._ask(reservation, above, 0, takers)
        if refused:
            if not any(live.row.job_id == job_id for live in self.live.values()):
                self._refuse(job_id, refused)
            return False, None
        row = SessionCosts(job_id, job.account_id, job.project_id, session_id, price_micros)
        self.live[session_id] = LiveSession(row, reservation, 0)
        self.write_reservations(self.live[session_id])
        return True, reservation.cap_micros(self.balances)

    def _refuse(self, job_id: str, refused: tuple[str, ...]) -> None:
        """Hold or cancel a job for which the budgets `refused` have no money."""
        tx = self.tx
        state = job_states.lock(tx, job_id)
        self.stopped.add(job_id)
        facts = state.facts
        if facts.cancel_asked or JobStatus(state.status) in FINISHED:
            return
        first = self.rows[refused[0]]
        cancels = any(terms_of(self.rows[name]).cancels_at_limit for name in refused)
        stop = any(self.balances[name].mode == "stop" for name in refused)
        known = all((job_id, name) in self.holds for name in refused)
        if known and not cancels and not (stop and facts.running):
            return
        before = {"status": state.status, "holds": state.holds}
        changes = job_rules.cancel(facts) if cancels else job_rules.hold(facts, drain=not stop, by="budget")
        carry_out(tx, state, changes)
        for name in refused if not cancels else ():
            self._record_hold(state, self.rows[name])
        event = "budget.cancelled" if cancels else "budget.held"
        actor = f"budget:{first.id}"
        data = {"budgets": list(refused), "mode": "stop" if stop else "drain", "reason": self._reason(first)}
        state.emit(tx, actor, event, data)
        job_states.save(tx, state, actor)
        after = {"status": state.status, "holds": state.holds, "reason": data["reason"]}
        audit(tx, actor, event, job_id, account_id=state.account_id, before=before, after=after)

    def _reason(self, row: BudgetRow) -> str:
        balance = self.balances[row.id]
        taken = format_amount(balance.spent_micros + balance.reserved_micros)
        return f"{taken} of the budget's {format_amount(row.amount_micros)} are spent or set aside."

    def _record_hold(self, state: job_states.JobState, row: BudgetRow) -> None:
        key = (state.job_id, row.id)
        values = {
            "limit_micros": terms_of(row).limit_micros,
            "period_start_ms": row.period_start_ms,
            "at_ms": self.tx.now_ms,
        }
        if key in self.holds:
            statement = sa.update(budget_holds).where(
                budget_holds.c.job_id == key[0], budget_holds.c.budget_id == key[1]
            )
            self.tx.conn.execute(statement.values(values))
        else:
            ids = {"job_id": key[0], "budget_id": key[1], "account_id": state.account_id}
            self.tx.conn.execute(sa.insert(budget_holds).values(ids | values))
            self.holds.add(key)

    def lift(self) -> None:
        """Lift the holds of budgets that have money again or were deleted; a job without holds continues."""
        query = (
            sa.select(
                budget_holds,
                jobs.c.preemptible,
                job_state.c.status,
                instance_types.c.price_micros,
                instance_types.c.preemptible_price_micros,
            )
            .join(jobs, jobs.c.id == budget_holds.c.job_id)
            .join(job_state, job_state.c.job_id == budget_holds.c.job_id)
            .join(instance_types, instance_types.c.id == jobs.c.instance_type_id)
        ).order_by(budget_holds.c.job_id)
        for row in self.tx.rows(_HeldJob, query):
            if row.job_id in self.stopped:
                continue
            finished = row.status in FINISHED
            if not finished and not self._has_money(row):
                continue
            this = (budget_holds.c.job_id == row.job_id) & (budget_holds.c.budget_id == row.budget_id)
            self.tx.conn.execute(sa.delete(budget_holds).where(this))
            self.holds.discard((row.job_id, row.budget_id))
            if not finished and not any(job == row.job_id for job, _ in self.holds):
                self._release(row.job_id, row.budget_id)

    def _has_money(self, row: _HeldJob) -> bool:
        balance = self.balances.get(row.budget_id)
        if balance is None:
            return True
        price = price_of(row, preemptible=row.preemptible)
        period_start_ms = self.rows[balance.id].period_start_ms
        changed = row.limit_micros != balance.limit_micros or row.period_start_ms != period_start_ms
        stop_ms, drain_ms = margins_ms(self.settings)
        least_ms = 2 * stop_ms if balance.mode == "stop" else drain_ms + rules.DRAIN_LEAST_MS
        return rules.may_resume(balance, price, changed=changed, least_ms=least_ms)

    def _release(self, job_id: str, budget_id: str) -> None:
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
        """Warn of budgets beyond `warn_at`; cancel the jobs under budgets beyond `cancel_at`."""
        for budget, row in list(self.rows.items()):
            terms = terms_of(row)
            at_work = [live for live in self.live.values() if budget in live.reservation.held]
            spent = self.balances[budget].spent_micros + sum(
                live.row.spent_micros - live.reservation.settled_micros + live.running_micros
                for live in at_work
            )
            if terms.warn_micros is not None and spent >= terms.warn_micros and not row.warned:
                self.rows[budget] = replace(row, warned=True)
                self._warn(row, spent, {live.row.job_id for live in at_work})
            if terms.cancel_micros is not None and spent >= terms.cancel_micros:
                held = {job for job, holding in self.holds if holding == budget}
                for job_id in sorted({live.row.job_id for live in at_work} | held):
                    self._cancel(row, job_id)

    def _warn(self, row: BudgetRow, spent: int, at_work: set[str]) -> None:
        actor = f"budget:{row.id}"
        facts = {"spent": format_amount(spent), "amount": format_amount(row.amount_micros)}
        text = explain("budget_low", facts)
        for job_id in sorted(at_work):
            state = job_states.lock(self.tx, job_id)
            warnings.add(self.tx, job_id, [msg.NodeWarning(code="budget_low", message=text, subject=row.id)])
            state.emit(self.tx, actor, "budget.warned", {"budget": row.id, "message": text})
            job_states.save(self.tx, state, actor)
        audit(self.tx, actor, "budget.warned", row.id, account_id=row.account_id, after=facts)

    def _cancel(self, row: BudgetRow, job_id: str) -> None:
        state = job_states.lock(self.tx, job_id)
        if state.facts.cancel_asked or JobStatus(state.status) in FINISHED:
            return
        before = {"status": state.status, "holds": state.holds}
        carry_out(self.tx, state, job_rules.cancel(state.facts))
        actor, reason = f"budget:{row.id}", self._reason(row)
        state.emit(self.tx, actor, "budget.cancelled", {"budgets": [row.id], "reason": reason})
        job_states.save(self.tx, state, actor)
        self.stopped.add(job_id)
        after = {"status": state.status, "reason": reason}
        audit(
            self.tx,
            actor,
            "budget.cancelled",
            job_id,
            account_id=row.account_id,
            before=before,
            after=after,
        )


def run_pass(tx: Tx, settings: Settings) -> BudgetPass:
    """Settle, extend, hold, lift and warn, in the transaction of the leader's tick.

    Afterwards call `first_slice` for each session that is to be inserted, and `write_budgets` at the end.
    """
    budget_pass = BudgetPass(tx, settings)
    budget_pass.read()
    if budget_pass.rows:
        budget_pass.extend()
        budget_pass.watch_thresholds()
    budget_pass.lift()
    if budget_pass.rows:
        budget_pass.write()
    return budget_pass
