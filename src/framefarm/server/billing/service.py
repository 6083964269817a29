"""The ledger and what is not in it yet. Attempts are the meter; entries are never changed or deleted."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
import structlog

from framefarm.core.errors import Conflict, InvalidInput
from framefarm.core.money import balanced, cost_micros, format_amount
from framefarm.server.accounts.tables import accounts
from framefarm.server.billing.tables import ledger_postings, ledger_transactions
from framefarm.server.catalog.tables import instance_types
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs.tables import jobs
from framefarm.server.loops import repeat
from framefarm.server.projects.tables import projects
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
"""Kind of entry → the book on the other side of it."""
FREE = "-"
"""`charge_id` of attempts that cost nothing: posted, without an entry."""


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
    """Append an entry. `amount_micros` is seen from the account: charges are negative. Returns its id."""
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
    """Post one charge for the job's ended attempts that are not posted yet; its id, None if free.

    What is charged is exactly what this statement marks: an attempt that ends meanwhile is left to the next.
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
        mine = farmwide(sa.update(attempts)).where(attempts.c.charge_id == entry_id)
        tx.conn.execute(mine.where(attempts.c.job_id == job_id).values(charge_id=FREE))
        return None
    _lock(tx, account_id)
    hour = tx.now_ms - tx.now_ms % HOUR_MS
    same = scoped(
        sa.select(sa.func.count()).select_from(ledger_transactions), ledger_transactions, account_id
    )
    sequence = tx.conn.execute(
        same.where(ledger_transactions.c.job_id == job_id, ledger_transactions.c.hour_ms == hour)
    ).scalar_one()
    title = tx.conn.execute(farmwide(sa.select(jobs.c.title)).where(jobs.c.id == job_id)).scalar_one()
    text = f"{title}: {billed / 1000:.3f} s of rendering"
    return post(
        tx, account_id, "charge", -cost, text, "system",
        entry_id=entry_id, job_id=job_id, hour_ms=hour, sequence=sequence,
    )  # fmt: skip


def _lock(tx: Tx, account_id: str) -> None:
    """One entry after the other: numbers and balances of an account's ledger follow each other."""
    tx.conn.execute(farmwide(sa.select(accounts.c.id)).where(accounts.c.id == account_id).with_for_update())


def charge_due(tx: Tx) -> int:
    """Post, for every job, the attempts that ended before the current hour; returns how many jobs."""
    hour = tx.now_ms - tx.now_ms % HOUR_MS
    due_attempts = farmwide(sa.select(attempts.c.account_id, attempts.c.job_id)).where(
        attempts.c.charge_id.is_(None), attempts.c.outcome.is_not(None), attempts.c.ended_ms < hour
    )
    # Grouped as ix_attempts_unposted is: the attempts of years that are posted are not looked at.
    query = due_attempts.group_by(attempts.c.account_id, attempts.c.job_id)
    due = tx.conn.execute(query.limit(100)).all()
    for account_id, job_id in due:
        charge_job(tx, account_id, job_id)
    return len(due)


async def run(context: AppContext) -> None:
    """Post due charges every minute: an hour's attempts are due once the hour is over."""

    async def charge_all() -> None:
        while await context.db.write(charge_due):
            pass

    await repeat(charge_all, seconds=60, failure="charging_failed")


def balance(tx: Tx, account_id: str) -> int:
    """The sum of all entries, micro-dollars."""
    query = sa.select(sa.func.coalesce(sa.func.sum(ledger_transactions.c.amount_micros), 0))
    return int(tx.conn.execute(scoped(query, ledger_transactions, account_id)).scalar_one())


def over_limit(tx: Tx, account_id: str) -> tuple[int, int] | None:
    """(balance with what is not posted yet, credit limit) of an account that owes more than its limit."""
    query = farmwide(sa.select(accounts.c.credit_limit_micros)).where(accounts.c.id == account_id)
    limit: int | None = tx.conn.execute(query).scalar_one()
    if limit is None:
        return None
    cost = sa.select(sa.func.coalesce(sa.func.sum(attempts.c.cost_micros), 0))
    unposted = scoped(cost, attempts, account_id).where(
        attempts.c.charge_id.is_(None), attempts.c.outcome.is_not(None)
    )
    owed = balance(tx, account_id) - int(tx.conn.execute(unposted).scalar_one())
    return (owed, limit) if owed < -limit else None


def must_have_credit(tx: Tx, account_id: str) -> None:
    """Accounts are postpaid, up to their credit limit where they have one. Raises Conflict."""
    if (owes := over_limit(tx, account_id)) is not None:
        balance_now, limit = map(format_amount, owes)
        sentence = (
            f"The account's balance is {balance_now} and its credit limit {limit}: it takes no new work until"
            " a payment is posted or the limit is raised; ask the farm's operator."
        )
        raise Conflict(sentence, state="over_credit_limit")


def transactions(tx: Tx, account_id: str, before: int | None, limit: int, kind: str | None) -> list[Any]:
    """Newest first, numbers below `before`."""
    query = scoped(sa.select(ledger_transactions), ledger_transactions, account_id)
    if before is not None:
        query = query.where(ledger_transactions.c.number < before)
    if kind is not None:
        query = query.where(ledger_transactions.c.kind == kind)
    return list(tx.conn.execute(query.order_by(ledger_transactions.c.number.desc()).limit(limit)).mappings())


def current_period(tx: Tx, account_id: str) -> dict[str, Any]:
    """Usage of this calendar month (UTC): posted or not, running attempts until now."""
    now = datetime.fromtimestamp(tx.now_ms / 1000, UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    start_ms, end_ms = round(start.timestamp() * 1000), round(end.timestamp() * 1000)
    total = core_ms = gpu_ms = frames = saved = unposted = 0
    by: dict[str, dict[str, int]] = {n: defaultdict(int) for n in ("project", "job", "instance")}
    titles: dict[str, str] = {}
    for row in [*_ended(tx, account_id, start_ms, end_ms), *_in_work(tx, account_id)]:
        cost = row["cost"]
        total += cost
        core_ms += row["billed"] * row["cores"]
        gpu_ms += row["billed"] * row["gpu_count"]
        frames += row["frames"]
        if row["unposted"]:
            unposted += cost
        if row["preemptible"]:
            saved += max(0, cost_micros(row["billed"], row["on_demand_micros"]) - cost)
        by["project"][row["project"]] += cost
        by["job"][row["job_id"]] += cost
        by["instance"][row["instance_type_id"]] += cost
        titles[row["job_id"]] = row["title"]
    return {
        "start_ms": start_ms,
        "end_ms": end_ms,
        "total": total,
        "unposted": unposted,
        "core_hours": core_ms / HOUR_MS,
        "gpu_hours": gpu_ms / HOUR_MS,
        "frames": frames,
        "saved": saved,
        "by": by,
        "titles": titles,
        "balance": balance(tx, account_id),
    }


GROUP = (
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


def _ended(tx: Tx, account_id: str, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
    """Sums of the attempts that ended in [start, end), one row for each job, machine and price."""
    sums = (
        sa.func.sum(attempts.c.billed_ms).label("billed"),
        sa.func.sum(attempts.c.cost_micros).label("cost"),
        sa.func.sum(attempts.c.frames_done).label("frames"),
    )
    mine = scoped(sa.select(*GROUP, *sums).select_from(attempts), attempts, account_id)
    query = _with_jobs(mine).where(attempts.c.ended_ms >= start_ms, attempts.c.ended_ms < end_ms)
    plain = [c.element if isinstance(c, sa.Label) else c for c in GROUP]
    rows = tx.conn.execute(query.group_by(*plain)).mappings()
    return [dict(r) | {name: int(r[name]) for name in ("billed", "cost", "frames")} for r in rows]


def _in_work(tx: Tx, account_id: str) -> list[dict[str, Any]]:
    """The attempts in work, billed until now."""
    columns = (attempts.c.started_ms, attempts.c.price_micros, attempts.c.frames_done.label("frames"))
    mine = scoped(sa.select(*GROUP, *columns).select_from(attempts), attempts, account_id)
    query = _with_jobs(mine).where(attempts.c.ended_ms.is_(None), attempts.c.started_ms.is_not(None))
    rows = []
    for row in tx.conn.execute(query).mappings():
        billed = max(0, tx.now_ms - row["started_ms"])
        rows.append(dict(row) | {"billed": billed, "cost": cost_micros(billed, row["price_micros"])})
    return rows
