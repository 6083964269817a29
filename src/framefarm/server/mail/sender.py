"""Loop that sends mails over SMTP, repeated for a day.

All that it needs is in the mails' rows, so a restart loses nothing.
"""

from __future__ import annotations

import ipaddress
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.server.context import AppContext
from framefarm.server.loops import repeat_when_woken
from framefarm.server.mail import service
from framefarm.server.metrics import MAILS

log = structlog.get_logger(__name__)
AT_ONCE = 20
POLL_SECONDS = 10.0
STEP_SECONDS = 30.0
"""Limit of each step of a conversation with the SMTP server."""


def send(url: str, message: EmailMessage) -> None:
    """Hand a mail to the SMTP server at `url` (smtp://… or smtps://…). Raises SMTPException, OSError.

    A password is sent over TLS only, except to this machine itself.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    tls = ssl.create_default_context()
    server: smtplib.SMTP
    if parts.scheme == "smtps":
        server = smtplib.SMTP_SSL(host, parts.port or 465, timeout=STEP_SECONDS, context=tls)
    else:
        server = smtplib.SMTP(host, parts.port or 25, timeout=STEP_SECONDS)
    with server:
        server.ehlo()
        safe = parts.scheme == "smtps" or _is_loopback(host)
        if parts.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=tls)
            server.ehlo()
            safe = True
        if parts.username is not None:
            if not safe:
                raise smtplib.SMTPException("the server offers no TLS: the password is not sent to it")
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(message)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def run(context: AppContext, position: Callable[[], int | None]) -> None:
    """Queue and send mails for ever, woken by events; without FRAMEFARM_SMTP_URL return at once.

    `position` returns the commit horizon: the last event id that may be read, None while it is unknown.
    """
    if context.settings.smtp_url is None:
        return
    async with context.hub.listen("mail") as woken:
        await repeat_when_woken(
            woken, lambda: run_pass(context, position()), seconds=POLL_SECONDS, failure="mail_failed"
        )


async def run_pass(context: AppContext, up_to: int | None) -> float:
    """Queue new mails and send due ones; returns the seconds until the next pass."""
    assert context.settings.smtp_url is not None
    if up_to is not None and await context.db.read(service.any_new, up_to):
        while await context.db.write(service.queue_mails, up_to):
            pass
    due, next_due_ms = await context.db.write(service.claim_due, AT_ONCE)
    for mail in due:
        message = service.compose(mail, context.settings.mail_from, context.base_url())
        error, final = None, False
        try:
            await run_in_threadpool(send, context.settings.smtp_url.get_secret_value(), message)
        except (smtplib.SMTPException, OSError) as failure:
            error, final = f"{type(failure).__name__}: {failure}"[:300], _is_final(failure)
            log.warning("mail_not_sent", job=mail.job_id, state=mail.state, error=error, final=final)
        await context.db.write(service.record_attempt, mail, error, final=final)
        MAILS.labels("sent" if error is None else "refused").inc()
    if due:
        return 0.0
    return POLL_SECONDS if next_due_ms is None else max(0.05, (next_due_ms - context.db.clock_ms()) / 1000)


def _is_final(failure: Exception) -> bool:
    """Whether the server refused every recipient with a 5xx: later attempts would fail too."""
    if isinstance(failure, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in failure.recipients.values())
    return False
