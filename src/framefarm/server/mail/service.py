"""Which mails are due, and what they say. One mail for each job and state, however often it comes to it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import FieldError, InvalidInput
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.tables import users
from framefarm.server.database import Tx
from framefarm.server.events import service as events
from framefarm.server.jobs.tables import jobs
from framefarm.server.mail.tables import mails
from framefarm.server.settings import Settings
from framefarm.server.tenancy import farmwide, scoped

READER = "mail"
PAGE = 500
PAUSES_SECONDS = (5, 30, 120, 600, 3600)
GIVE_UP_MS = 24 * 3_600_000
CLAIM_MS = 120_000
LEAP = 10_000
"""Events without any of interest after which the position is written down all the same."""
WORDS = {
    "success": "is done",
    "failed": "has failed",
    "cancelled": "was cancelled",
    "holding": "is holding",
}


def check(tx: Tx, settings: Settings, account_id: str, addresses: list[str]) -> None:
    """The addresses of a job's `notify`. Raises InvalidInput with every bad one."""
    if settings.smtp_url is None:
        text = "this farm sends no mail: its operator has set no FRAMEFARM_SMTP_URL"
        raise InvalidInput.of("notify", text, None)
    bad: list[FieldError] = []
    clean: set[str] = set()
    for address in addresses:
        try:
            clean.add(accounts.clean_email(address))
        except InvalidInput as error:
            bad += [FieldError("notify.email", e.message, e.given) for e in error.errors]
    if not settings.mail_any_address and not bad:
        query = scoped(sa.select(users.c.email), users, account_id)
        known = tx.conn.execute(query.where(users.c.email.in_(clean), users.c.disabled_ms.is_(None)))
        text = "is no user of your account, and this farm writes to those only"
        bad += [FieldError("notify.email", text, a) for a in sorted(clean - set(known.scalars()))]
    if bad:
        raise InvalidInput(bad)


def any_new(tx: Tx, up_to: int) -> bool:
    """Whether `plan` has something to do."""
    begun = events.position(tx, READER)
    return up_to - begun > LEAP or bool(events.page_of_type(tx, "job.status", begun, up_to, 1))


def plan(tx: Tx, up_to: int) -> bool:
    """Write down the mails that events up to an id ask for; whether there may be more."""
    begun = events.position(tx, READER)
    rows = events.page_of_type(tx, "job.status", begun, up_to, PAGE)
    wanted = {(row["job_id"], str(row["data"].get("status"))): row for row in reversed(rows)}
    if wanted:
        asked = farmwide(sa.select(jobs.c.id, jobs.c.request)).where(jobs.c.id.in_({j for j, _ in wanted}))
        notify = {row.id: row.request.get("notify") for row in tx.conn.execute(asked)}
        have = farmwide(sa.select(mails.c.job_id, mails.c.state)).where(mails.c.job_id.in_(notify))
        known = {(row.job_id, row.state) for row in tx.conn.execute(have)}
        fresh = [
            {
                "job_id": job_id,
                "state": state,
                "account_id": row["account_id"],
                "event_id": row["id"],
                "status": "pending",
                "attempts": 0,
                "created_ms": tx.now_ms,
                "next_ms": tx.now_ms,
            }
            for (job_id, state), row in wanted.items()
            if state in ((notify.get(job_id) or {}).get("on") or ()) and (job_id, state) not in known
        ]
        if fresh:
            tx.conn.execute(sa.insert(mails), fresh)
    full = len(rows) == PAGE
    to = rows[-1]["id"] if full else up_to
    if rows or to - begun > LEAP:  # not one write for each event: the same stretch is looked at again
        events.move(tx, READER, to)
    return full


def take(tx: Tx, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """Claim the mails that are due. Returns (mails with their job, when the next is due in ms or None)."""
    query = farmwide(
        sa.select(mails, jobs.c.title, jobs.c.request).join(jobs, jobs.c.id == mails.c.job_id)
    ).where(mails.c.status == "pending")
    claim = query.order_by(mails.c.next_ms).limit(limit).with_for_update(of=mails, skip_locked=True)
    rows = [dict(row) for row in tx.conn.execute(claim).mappings()]
    due = [row for row in rows if row["next_ms"] <= tx.now_ms]
    found = events.by_ids(tx, [row["event_id"] for row in due])
    for row in due:
        row["event"] = found.get(row["event_id"])
        mine = (mails.c.job_id == row["job_id"]) & (mails.c.state == row["state"])
        tx.conn.execute(farmwide(sa.update(mails)).where(mine).values(next_ms=tx.now_ms + CLAIM_MS))
    later = min((row["next_ms"] for row in rows if row["next_ms"] > tx.now_ms), default=None)
    return due, later


def settle(tx: Tx, row: dict[str, Any], error: str | None, *, final: bool = False) -> None:
    """Sent, again later, or given up: after a day, or at once where the server says never."""
    attempts = row["attempts"] + 1
    values: dict[str, Any] = {"attempts": attempts, "error": error}
    if error is None:
        values["status"] = "sent"
    elif final or tx.now_ms - row["created_ms"] >= GIVE_UP_MS:
        values["status"] = "failed"
    else:
        values["next_ms"] = tx.now_ms + PAUSES_SECONDS[min(attempts, len(PAUSES_SECONDS)) - 1] * 1000
    mine = (mails.c.job_id == row["job_id"]) & (mails.c.state == row["state"])
    tx.conn.execute(farmwide(sa.update(mails)).where(mine, mails.c.status == "pending").values(values))


def compose(row: dict[str, Any], sender: str, base_url: str) -> EmailMessage:
    """The mail. Nothing that an artist or a scene wrote can begin a header: line breaks become blanks."""
    title = " ".join(row["title"].split())
    state = row["state"]
    data = (row["event"] or {"data": {}})["data"]
    message = EmailMessage()
    message["Subject"] = f"{title} {WORDS[state]}"
    message["From"] = sender
    message["To"] = ", ".join(row["request"]["notify"]["email"])
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=parseaddr(sender)[1].rpartition("@")[2] or "framefarm")
    message["Auto-Submitted"] = "auto-generated"
    lines = [f"{title} {WORDS[state]}."]
    if reasons := data.get("hold_reasons"):
        lines.append(f"Why: {', '.join(reasons)}.")
    if data.get("message"):
        lines.append(str(data["message"]))
    lines += ["", f"Job {row['job_id']}", f"{base_url}/api/jobs/{row['job_id']}", ""]
    message.set_content("\n".join(lines))
    return message
