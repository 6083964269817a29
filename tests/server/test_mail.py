"""Mails of a job's states, through a real SMTP server on loopback."""

from __future__ import annotations

import email
import email.policy
import socket
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from api_client import ApiClient
from pydantic import SecretStr, ValidationError

from framefarm.core.delivery import MailStatus
from framefarm.server.events.streams import Streams
from framefarm.server.mail import sender, service
from framefarm.server.mail.tables import mails
from framefarm.server.rows import EventRow
from framefarm.server.settings import Settings

ME = "ada@studio.example"


class Inbox:
    """An SMTP server that takes mails, or refuses them with the answer `refuse`."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.to: list[list[str]] = []
        self.refuse: str | None = None
        self.server: Controller

    def open(self, port: int) -> None:
        self.server = Controller(self, hostname="127.0.0.1", port=port)
        self.server.start()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse is not None:
            return self.refuse
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        self.to.append(envelope.rcpt_tos)
        return "250 taken"


@pytest.fixture
def inbox(site: ApiClient) -> Iterator[Inbox]:
    box = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    box.open(port)
    try:
        site.context.settings.smtp_url = SecretStr(f"smtp://127.0.0.1:{port}")
        site.context.settings.mail_from = "Framefarm <farm@studio.example>"
        yield box
    finally:
        box.server.stop()


def send_due_mails(site: ApiClient) -> None:
    """Passes of the mailer until no mail is due."""

    async def passes() -> None:
        position = await Streams(site.context).up_to_date()
        while await sender.run_pass(site.context, position) == 0.0:
            pass

    site.loop.run(passes())


def act(site: ApiClient, job: str, action: str) -> None:
    assert site.ask("PATCH", f"/api/jobs/{job}", json={"action": action}).status_code == 200


def test_a_mail_is_sent_once_for_each_state_that_was_asked_for(site: ApiClient, inbox: Inbox) -> None:
    job = site.submit(job_title="Shot 7 é", notify={"email": [ME], "on": ["holding", "success"]})["id"]
    assert site.get(f"/api/jobs/{job}")["notify"] == {"email": [ME], "on": ["holding", "success"]}
    quiet = site.submit(job_title="quiet")["id"]
    for _ in range(2):
        act(site, job, "hold")
        act(site, quiet, "hold")
        send_due_mails(site)
        act(site, job, "unhold")
        send_due_mails(site)
    site.render(job)
    assert site.status(job) == "success"
    send_due_mails(site)
    send_due_mails(site)
    assert [m["Subject"] for m in inbox.got] == ["Shot 7 é is holding", "Shot 7 é is done"]
    assert inbox.to == [[ME], [ME]]
    assert job in inbox.got[0].get_content()
    assert "Why: user" in inbox.got[0].get_content()
    assert {r["status"] for r in site.rows(mails)} == {"sent"}


def test_a_mail_that_was_refused_for_now_is_sent_later_and_lost_by_no_restart(
    site: ApiClient, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAUSES_SECONDS", (3600,))
    job = site.submit(notify={"email": [ME], "on": ["holding"]})["id"]
    act(site, job, "hold")
    inbox.refuse = "451 try again"
    send_due_mails(site)
    (row,) = site.rows(mails)
    assert (row["status"], row["attempts"]) == ("pending", 1)
    assert "451" in row["error"]
    inbox.refuse = None
    send_due_mails(site)
    assert inbox.got == []
    clock = site.context.db.clock_ms
    monkeypatch.setattr(site.context.db, "clock_ms", lambda: clock() + 3_601_000)
    send_due_mails(site)
    assert len(inbox.got) == 1


def test_mail_server_down_gets_the_mail_later(
    site: ApiClient, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAUSES_SECONDS", (3600,))
    inbox.server.stop()
    job = site.submit(notify={"email": [ME], "on": ["holding"]})["id"]
    act(site, job, "hold")
    send_due_mails(site)
    (row,) = site.rows(mails)
    assert (row["status"], row["attempts"]) == ("pending", 1)
    assert "refused" in row["error"]
    inbox.open(inbox.server.port)
    clock = site.context.db.clock_ms
    monkeypatch.setattr(site.context.db, "clock_ms", lambda: clock() + 3_601_000)
    send_due_mails(site)
    assert [m["Subject"] for m in inbox.got] == ["Shot 1 is holding"]


def test_line_breaks_in_a_title_begin_no_header(site: ApiClient, inbox: Inbox) -> None:
    event = EventRow(1, "acc_1", "job_1", 1, 0, "system", "job.status", {"message": "It\r\n.\r\nfailed"})
    mail = service.DueMail(
        job_id="job_1", state="failed", account_id="acc_1", event_id=1, status=MailStatus.PENDING, attempts=0,
        created_ms=0, next_ms=0, error=None, title="x\r\nBcc: eve@rival.example\r\n\r\nbody",
        request={"notify": {"email": [ME]}}, event=event,
    )  # fmt: skip
    message = service.compose(mail, "farm@studio.example", "http://farm")
    sender.send(site.context.settings.smtp_url.get_secret_value(), message)
    (got,) = inbox.got
    assert got["Bcc"] is None
    assert got["Subject"] == "x Bcc: eve@rival.example body has failed"
    assert inbox.to == [[ME]]
    refused = site.ask("POST", "/api/jobs", json=site.payload(job_title="x\nBcc: e@r.example"))
    assert refused.status_code == 422


def test_without_smtp_settings_notify_is_refused_in_clear_words(site: ApiClient) -> None:
    answer = site.ask("POST", "/api/jobs", json=site.payload(notify={"email": [ME]}))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "notify"
    assert "FRAMEFARM_SMTP_URL" in error["message"]


@pytest.mark.parametrize(
    "notify",
    [
        {}, {"email": []}, {"email": ["no address"]}, {"email": ["eve@rival.example"]}, {"email": ME},
        {"email": [ME], "on": ["running"]}, {"email": [ME], "on": []}, {"email": [ME], "x": 1},
        {"email": [ME + "\r\nBcc: e@r.example"]}, {"email": [ME] * 21},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("inbox")
def test_notify_is_strict_and_writes_to_users_of_the_account_only(
    site: ApiClient, other: ApiClient, notify: dict[str, Any]
) -> None:
    answer = site.ask("POST", "/api/jobs", json=site.payload(notify=notify))
    assert answer.status_code == 422, answer.text
    assert all(e["field"].startswith("notify") for e in answer.json()["errors"])


@pytest.mark.usefixtures("inbox")
def test_the_operator_may_allow_other_addresses(site: ApiClient) -> None:
    site.upload()
    site.context.settings.mail_any_address = True
    answer = site.ask("POST", "/api/jobs", json=site.payload(notify={"email": ["client@film.example"]}))
    assert answer.status_code == 201, answer.text
    assert answer.json()["notify"]["on"] == ["success", "failed", "holding"]


def test_password_is_not_sent_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    class Plain:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Plain:
            return self

        def __exit__(self, *_: object) -> None: ...
        def ehlo(self) -> None: ...
        def has_extn(self, _name: str) -> bool:
            return False

        def login(self, *_: str) -> None:
            commands.append("password")

    monkeypatch.setattr(sender.smtplib, "SMTP", Plain)
    with pytest.raises(sender.smtplib.SMTPException, match="no TLS"):
        sender.send("smtp://u:p@mail.example", EmailMessage())
    assert commands == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"smtp_url": "http://x"}, {"smtp_url": "smtp://mail.example"},
        {"smtp_url": "smtp://", "mail_from": "a@b.c"},
        {"webhook_allowed_networks": "10.0.0.0/8, nonsense"},
    ],
)  # fmt: skip
def test_settings_that_can_not_work_are_refused_at_the_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]
