"""Mails to the addresses in a job's `notify`: one for each state of `notify.on`, when first reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Any

import sqlalchemy as sa

from framefarm.core.delivery import MailStatus, retry_pause_ms
from framefarm.core.errors import FieldError, InvalidInput
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.tables import users
from framefarm.server.database import Tx
from framefarm.server.events import service as events
from framefarm.server.jobs.tables import jobs
from framefarm.server.json_types import Json
from framefarm.server.mail.tables import mails
from framefarm.server.rows import EventRow, MailRow
from framefarm.server.settings import Settings
from framefarm.server.tenancy import farmwide, scoped

READER = "mail"
EVENTS_AT_ONCE = 500
PAUSES_SECONDS = (5, 30, 120, 600, 3600)
GIVE_UP_MS = 24 * 3_600_000
CLAIM_MS = 120_000
"""Time for which a claimed mail belongs to one process; after a crash it is due again then."""
LEAP = 10_000
"""Events after which the reader's position is written even if none asks for a mail."""
WORDS = {
    "success": "is done",
    "failed": "has failed",
    "cancelled": "was cancelled",
    "holding": "is holding",
}


def check_addresses(tx: Tx, settings: Settings, account_id: str, addresses: list[str]) -> None:
    """Check the addresses of a job's `notify`. Raises InvalidInput with every bad one."""
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
    """Whether `queue_mails` has something to do."""
    begun = events.position(tx, READER)
    return up_to - begun > LEAP or bool(events.page_of_type(tx, "job.status", begun, up_to, 1))


def queue_mails(tx: Tx, up_to: int) -> bool:
    """Insert the mails that events up to the id `up_to` ask for, at most a page of events.

    Returns whether the page was full: then there may be more.
    """
    begun = events.position(tx, READER)
    page = events.page_of_type(tx, "job.status", begun, up_to, EVENTS_AT_ONCE)
    first = {(event.job_id, str(event.data.get("status"))): event for event in reversed(page)}
    if first:
        _queue(tx, first)
    full = len(page) == EVENTS_AT_ONCE
    to = page[-1].id if full else up_to
    if page or to - begun > LEAP:  # not one write for each event: the same stretch is read again
        events.move(tx, READER, to)
    return full


def _queue(tx: Tx, first: dict[tuple[str, str], EventRow]) -> None:
    """Insert mails. `first`: (job, state) → the first event of the page that reports it."""
    requests = farmwide(sa.select(jobs.c.id, jobs.c.request)).where(jobs.c.id.in_({job for job, _ in first}))
    notify = {row.id: row.request.get("notify") or {} for row in tx.conn.execute(requests)}
    existing = farmwide(sa.select(mails.c.job_id, mails.c.state)).where(mails.c.job_id.in_(notify))
    known = {(row.job_id, row.state) for row in tx.conn.execute(existing)}
    inserts = [
        {
            "job_id": job_id,
            "state": state,
            "account_id": event.account_id,
            "event_id": event.id,
            "status": MailStatus.PENDING,
            "attempts": 0,
            "created_ms": tx.now_ms,
            "next_ms": tx.now_ms,
        }
        for (job_id, state), event in first.items()
        if state in (notify.get(job_id, {}).get("on") or ()) and (job_id, state) not in known
    ]
    if inserts:
        tx.conn.execute(sa.insert(mails), inserts)


@dataclass(frozen=True, slots=True)
class DueMail(MailRow):
    """A claimed mail, with its job's title and request."""

    title: str
    request: Json
    event: EventRow | None = None
    """None: the event was trimmed before the mail could be sent."""


def claim_due(tx: Tx, limit: int) -> tuple[list[DueMail], int | None]:
    """Claim up to `limit` due mails, for `CLAIM_MS`.

    Returns the mails, and the time in ms at which the next one is due, if it was read.
    """
    query = farmwide(
        sa.select(mails, jobs.c.title, jobs.c.request).join(jobs, jobs.c.id == mails.c.job_id)
    ).where(mails.c.status == MailStatus.PENDING)
    query = query.order_by(mails.c.next_ms).limit(limit)
    rows = tx.rows(DueMail, query.with_for_update(of=mails, skip_locked=True))
    due = [row for row in rows if row.next_ms <= tx.now_ms]
    for row in due:
        statement = farmwide(sa.update(mails)).where(_is(row))
        tx.conn.execute(statement.values(next_ms=tx.now_ms + CLAIM_MS))
    event_of = events.by_ids(tx, [row.event_id for row in due])
    later = min((row.next_ms for row in rows if row.next_ms > tx.now_ms), default=None)
    return [replace(row, event=event_of.get(row.event_id)) for row in due], later


def record_attempt(tx: Tx, row: MailRow, error: str | None, *, final: bool = False) -> None:
    """Record one attempt; `error` None: sent. Pending again after an error, failed after a day.

    `final`: failed at once, because the server will never take it.
    """
    attempts = row.attempts + 1
    values: dict[str, Any] = {"attempts": attempts, "error": error}
    if error is None:
        values["status"] = MailStatus.SENT
    elif final or tx.now_ms - row.created_ms >= GIVE_UP_MS:
        values["status"] = MailStatus.FAILED
    else:
        values["next_ms"] = tx.now_ms + retry_pause_ms(attempts, PAUSES_SECONDS)
    pending = mails.c.status == MailStatus.PENDING
    tx.conn.execute(farmwide(sa.update(mails)).where(_is(row), pending).values(values))


def _is(row: MailRow) -> sa.ColumnElement[bool]:
    return (mails.c.job_id == row.job_id) & (mails.c.state == row.state)


def compose(mail: DueMail, sender: str, base_url: str) -> EmailMessage:
    """The message of a mail. Line breaks in titles become blanks, so no title can begin a header."""
    title = " ".join(mail.title.split())
    data = mail.event.data if mail.event else {}
    message = EmailMessage()
    message["Subject"] = f"{title} {WORDS[mail.state]}"
    message["From"] = sender
    message["To"] = ", ".join(mail.request["notify"]["email"])
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=parseaddr(sender)[1].rpartition("@")[2] or "framefarm")
    message["Auto-Submitted"] = "auto-generated"
    lines = [f"{title} {WORDS[mail.state]}."]
    if reasons := data.get("hold_reasons"):
        lines.append(f"Why: {', '.join(reasons)}.")
    if data.get("message"):
        lines.append(str(data["message"]))
    lines += ["", f"Job {mail.job_id}", f"{base_url}/api/jobs/{mail.job_id}", ""]
    message.set_content("\n".join(lines))
    return message
