"""The ledger, and the cost that is not posted to it yet.

Each ended attempt has its cost; a charge posts the cost of several. Entries are never changed or deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
import structlog

from framefarm.core.errors import Conflict, InvalidInput
from framefarm.core.money import balanced, cost_micros, format_amount
from framefarm.server.accounts.tables import accounts
from framefarm.server.billing.tables import ledger_postings, ledger_transactions
from framefarm.server.budgets.service import month_start_ms
from framefarm.server.catalog.tables import instance_types
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs.tables import jobs
from framefarm.server.loops import repeat
from framefarm.server.projects.tables import projects
from framefarm.server.rows import LedgerTransactionRow
from framefarm.server.sessions.tables import attempts
from framefarm.server.tenancy import farmwide, scoped

log = structlog.get_logger(__name__)
HOUR_MS = 3_600_000
BOOKS = {
    "charge": "revenue",
    "payment": "cash",
    "credit": "credits",
    "refund": "cash",
    "adjustment": "credits",
}
"""Kind of entry → the book of its other posting."""
FREE = "-"
"""`charge_id` of posted attempts that cost nothing and have no entry."""


def post(
    tx: Tx,
    account_id: str,
    kind: str,
    amount_micros: int,
    description: str,
    actor: str,
    *,
    entry_id: str | None = None,
    job_id: str | None = None,
    hour_ms: int | None = None,
    sequence: int | None = None,
) -> str:
    """Append an entry to an account's ledger; returns its id. Raises InvalidInput for an unknown kind.

    `amount_micros`: micro-dollars from the account's side, so charges are negative.
    """
    if kind not in BOOKS:
        raise InvalidInput.of("kind", f"must be one of {', '.join(BOOKS)}", kind)
    _lock(tx, account_id)
    latest = scoped(
        sa.select(ledger_transactions.c.number, ledger_transactions.c.balance_micros),
        ledger_transactions,
        account_id,
    ).order_by(ledger_transactions.c.number.desc())
    last = tx.conn.execute(latest.limit(1)).one_or_none()
    entry_id = entry_id or new_id("txn")
    tx.conn.execute(
        sa.insert(ledger_transactions).values(
            id=entry_id,
            account_id=account_id,
            number=(last.number if last else 0) + 1,
            at_ms=tx.now_ms,
            kind=kind,
            amount_micros=amount_micros,
            balance_micros=(last.balance_micros if last else 0) + amount_micros,
            description=description,
            job_id=job_id,
            hour_ms=hour_ms,
            sequence=sequence,
            actor=actor,
        )
    )
    sides = [(f"account:{account_id}", amount_micros), (BOOKS[kind], -amount_micros)]
    assert balanced(amount for _, amount in sides)
    tx.conn.execute(
        sa.insert(ledger_postings),
        [
            {"transaction_id": entry_id, "book": book, "account_id": account_id, "amount_micros": amount}
            for book, amount in sides
        ],
    )
    return entry_id


def charge_job(tx: Tx, account_id: str, job_id: str) -> str | None:
    """Post one charge for the job's ended attempts without one; returns its id, None if they cost nothing.

    It charges exactly the attempts that its own statement marks; attempts that end meanwhile come next time.
    """
    entry_id = new_id("txn")
    ended = (attempts.c.job_id == job_id) & attempts.c.charge_id.is_(None) & attempts.c.outcome.is_not(None)
    marked = tx.conn.execute(
        scoped(sa.update(attempts), attempts, account_id)
        .where(ended)
        .values(charge_id=entry_id)
        .returning(attempts.c.cost_micros, attempts.c.billed_ms)
    ).all()
    cost, billed = sum(m.cost_micros for m in marked), sum(m.billed_ms for m in marked)
    if not cost:
        free = farmwide(sa.update(attempts)).where(attempts.c.charge_id == entry_id)
        tx.conn.execute(free.where(attempts.c.job_id == job_id).values(charge_id=FREE))
        return None
    _lock(tx, account_id)
    hour = tx.now_ms - tx.now_ms % HOUR_MS
    count = scoped(
        sa.select(sa.func.count()).select_from(ledger_transactions), ledger_transactions, account_id
    )
    sequence = tx.conn.execute(
        count.where(ledger_transactions.c.job_id == job_id, ledger_transactions.c.hour_ms == hour)
    ).scalar_one()
    title = tx.conn.execute(farmwide(sa.select(jobs.c.title)).where(jobs.c.id == job_id)).scalar_one()
    text = f"{title}: {billed / 1000:.3f} s of rendering"
    return post(
        tx, account_id, "charge", -cost, text, "system",
        entry_id=entry_id, job_id=job_id, hour_ms=hour, sequence=sequence,
    )  # fmt: skip


def _lock(tx: Tx, account_id: str) -> None:
    """Make entries of an account wait for each other: each number and balance builds on the last."""
    tx.conn.execute(farmwide(sa.select(accounts.c.id)).where(accounts.c.id == account_id).with_for_update())


def charge_due(tx: Tx) -> int:
    """Post the attempts that ended before the current hour, of up to 100 jobs; returns the number of jobs."""
    hour = tx.now_ms - tx.now_ms % HOUR_MS
    due_attempts = farmwide(sa.select(attempts.c.account_id, attempts.c.job_id)).where(
        attempts.c.charge_id.is_(None), attempts.c.outcome.is_not(None), attempts.c.ended_ms < hour
    )
    # Grouped like ix_attempts_unposted, so that years of posted attempts are not read.
    query = due_attempts.group_by(attempts.c.account_id, attempts.c.job_id)
    due = tx.conn.execute(query.limit(100)).all()
    for account_id, job_id in due:
        charge_job(tx, account_id, job_id)
    return len(due)


async def run(context: AppContext) -> None:
    """Post due charges every minute, for ever: an hour's attempts are due once the hour is over."""

    async def charge_all() -> None:
        while await context.db.write(charge_due):
            pass

    await repeat(charge_all, seconds=60, failure="charging_failed")


def balance(tx: Tx, account_id: str) -> int:
    """Sum of all entries of an account, in micro-dollars."""
    query = sa.select(sa.func.coalesce(sa.func.sum(ledger_transactions.c.amount_micros), 0))
    return int(tx.conn.execute(scoped(query, ledger_transactions, account_id)).scalar_one())


def over_limit(tx: Tx, account_id: str) -> tuple[int, int] | None:
    """(balance, credit limit) in micro-dollars of an account that owes more than its limit, else None.

    The balance here includes the ended attempts that are not posted yet.
    """
    query = farmwide(sa.select(accounts.c.credit_limit_micros)).where(accounts.c.id == account_id)
    limit: int | None = tx.conn.execute(query).scalar_one()
    if limit is None:
        return None
    cost = sa.select(sa.func.coalesce(sa.func.sum(attempts.c.cost_micros), 0))
    unposted = scoped(cost, attempts, account_id).where(
        attempts.c.charge_id.is_(None), attempts.c.outcome.is_not(None)
    )
    current = balance(tx, account_id) - int(tx.conn.execute(unposted).scalar_one())
    return (current, limit) if current < -limit else None


def must_have_credit(tx: Tx, account_id: str) -> None:
    """Raises Conflict if the account owes more than its credit limit. Accounts are postpaid."""
    if (over := over_limit(tx, account_id)) is not None:
        balance_now, limit = map(format_amount, over)
        sentence = (
            f"The account's balance is {balance_now} and its credit limit {limit}: it takes no new work until"
            " a payment is posted or the limit is raised; ask the farm's operator."
        )
        raise Conflict(sentence, state="over_credit_limit")


def transactions(
    tx: Tx, account_id: str, before: int | None, limit: int, kind: str | None
) -> list[LedgerTransactionRow]:
    """Ledger entries of an account with numbers below `before`, newest first."""
    query = scoped(sa.select(ledger_transactions), ledger_transactions, account_id)
    if before is not None:
        query = query.where(ledger_transactions.c.number < before)
    if kind is not None:
        query = query.where(ledger_transactions.c.kind == kind)
    query = query.order_by(ledger_transactions.c.number.desc()).limit(limit)
    return tx.rows(LedgerTransactionRow, query)


# ------------------------------------------------------------------------- current period


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """Usage of an account in a calendar month (UTC); money in micro-dollars."""

    start_ms: int
    end_ms: int
    total: int
    unposted: int
    core_hours: float
    gpu_hours: float
    frames: int
    spot_savings: int
    by_project: Mapping[str, int]
    by_job: Mapping[str, int]
    by_instance_type: Mapping[str, int]
    titles: Mapping[str, str]
    """Job → title."""
    balance: int
    """Of the ledger, without what is not posted yet."""


@dataclass(frozen=True, slots=True)
class _Usage:
    """Usage of attempts of one job on one instance type; money in micro-dollars."""

    job_id: str
    title: str
    project: str
    instance_type_id: str
    cores: int
    gpu_count: int
    on_demand_micros: int
    """Price per hour."""
    preemptible: bool
    unposted: bool
    billed: int
    """Milliseconds."""
    cost: int
    frames: int


def current_period(tx: Tx, account_id: str) -> PeriodUsage:
    """Usage of this calendar month (UTC), posted or not, with running attempts until now."""
    start_ms = month_start_ms(tx.now_ms)
    end_ms = month_start_ms(start_ms + 32 * 24 * HOUR_MS)
    usages = [*_ended(tx, account_id, start_ms, end_ms), *_in_work(tx, account_id)]
    by_project: Counter[str] = Counter()
    by_job: Counter[str] = Counter()
    by_instance_type: Counter[str] = Counter()
    spot_savings = 0
    for usage in usages:
        by_project[usage.project] += usage.cost
        by_job[usage.job_id] += usage.cost
        by_instance_type[usage.instance_type_id] += usage.cost
        if usage.preemptible:
            spot_savings += max(0, cost_micros(usage.billed, usage.on_demand_micros) - usage.cost)
    return PeriodUsage(
        start_ms=start_ms,
        end_ms=end_ms,
        total=sum(usage.cost for usage in usages),
        unposted=sum(usage.cost for usage in usages if usage.unposted),
        core_hours=sum(usage.billed * usage.cores for usage in usages) / HOUR_MS,
        gpu_hours=sum(usage.billed * usage.gpu_count for usage in usages) / HOUR_MS,
        frames=sum(usage.frames for usage in usages),
        spot_savings=spot_savings,
        by_project=by_project,
        by_job=by_job,
        by_instance_type=by_instance_type,
        titles={usage.job_id: usage.title for usage in usages},
        balance=balance(tx, account_id),
    )


_GROUP = (
    attempts.c.job_id,
    jobs.c.title,
    projects.c.name.label("project"),
    attempts.c.instance_type_id,
    instance_types.c.cores,
    instance_types.c.gpu_count,
    instance_types.c.price_micros.label("on_demand_micros"),
    attempts.c.preemptible,
    attempts.c.charge_id.is_(None).label("unposted"),
)


def _with_jobs(query: sa.Select[Any]) -> sa.Select[Any]:
    return (
        query.join(jobs, jobs.c.id == attempts.c.job_id)
        .join(projects, projects.c.id == jobs.c.project_id)
        .join(instance_types, instance_types.c.id == attempts.c.instance_type_id)
    )


def _ended(tx: Tx, account_id: str, start_ms: int, end_ms: int) -> list[_Usage]:
    """Sums of the attempts that ended in [start, end), one for each job, instance type and market."""
    sums = (
        sa.func.sum(attempts.c.billed_ms).label("billed"),
        sa.func.sum(attempts.c.cost_micros).label("cost"),
        sa.func.sum(attempts.c.frames_done).label("frames"),
    )
    query = scoped(sa.select(*_GROUP, *sums).select_from(attempts), attempts, account_id)
    query = _with_jobs(query).where(attempts.c.ended_ms >= start_ms, attempts.c.ended_ms < end_ms)
    plain = [column.element if isinstance(column, sa.Label) else column for column in _GROUP]
    usages = tx.rows(_Usage, query.group_by(*plain))
    # PostgreSQL sums big integers as decimals.
    return [replace(u, billed=int(u.billed), cost=int(u.cost), frames=int(u.frames)) for u in usages]


@dataclass(frozen=True, slots=True)
class _AttemptInWork(_Usage):
    started_ms: int
    price_micros: int


def _in_work(tx: Tx, account_id: str) -> list[_Usage]:
    """The attempts in work, billed until now."""
    columns = (
        sa.literal(0).label("billed"),
        sa.literal(0).label("cost"),
        attempts.c.frames_done.label("frames"),
        attempts.c.started_ms,
        attempts.c.price_micros,
    )
    query = scoped(sa.select(*_GROUP, *columns).select_from(attempts), attempts, account_id)
    query = _with_jobs(query).where(attempts.c.ended_ms.is_(None), attempts.c.started_ms.is_not(None))
    usages: list[_Usage] = []
    for row in tx.rows(_AttemptInWork, query):
        billed_ms = max(0, tx.now_ms - row.started_ms)
        usages.append(replace(row, billed=billed_ms, cost=cost_micros(billed_ms, row.price_micros)))
    return usages
