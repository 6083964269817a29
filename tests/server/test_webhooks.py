"""Webhooks: who may add them, to which addresses; receivers get all events, signed and in order."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from standardwebhooks import Webhook, WebhookVerificationError

from framefarm.core.errors import InvalidInput
from framefarm.server.database import Tx
from framefarm.server.events.streams import Streams
from framefarm.server.jobs import state as job_states
from framefarm.server.webhooks import addresses, service
from framefarm.server.webhooks.sender import Sender
from framefarm.server.webhooks.tables import webhook_deliveries, webhooks

LOOPBACK = "127.0.0.0/8, ::1"
DAY_MS = 24 * 3_600_000


@dataclass
class Receiver:
    """A real HTTP server on loopback that keeps its requests."""

    port: int = 0
    answer: int = 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body)["data"] for _, body in self.got]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.got) < count:
                self.changed.clear()
                await self.changed.wait()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        location = "location: http://127.0.0.1:1/\r\n" if 300 <= self.answer < 400 else ""
        writer.write(f"HTTP/1.1 {self.answer} X\r\n{location}content-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self.got.append((headers, body))
        self.changed.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._one, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield


@pytest.fixture
def receiver() -> Receiver:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Receiver(port=free.getsockname()[1])


@pytest.fixture
def allowed(site: ApiClient) -> None:
    site.context.settings.webhook_allowed_networks = LOOPBACK


def add(site: ApiClient, url: str, **more: Any) -> dict[str, Any]:
    answer = site.ask("POST", "/api/webhooks", json={"url": url} | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def emit(site: ApiClient, job: str, value: int) -> Any:
    def work(tx: Tx) -> None:
        state = job_states.lock(tx, job)
        state.emit(tx, "test", "job.priority", {"priority": value})
        job_states.save(tx, state)

    return site.context.db.write(work)


@asynccontextmanager
async def sending(site: ApiClient) -> AsyncIterator[Sender]:
    """Run the event reader and a new sender, as after a restart of the server."""
    site.context.hub.attach(asyncio.get_running_loop())
    streams = Streams(site.context)
    sender = Sender(site.context, lambda: streams.position)
    tasks = [asyncio.create_task(streams.run()), asyncio.create_task(sender.run())]
    try:
        yield sender
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _all(tx: Tx) -> list[Any]:
    return list(tx.conn.execute(sa.select(webhook_deliveries)).mappings())


def _tried(tx: Tx) -> bool:
    return any(row["attempts"] for row in _all(tx))


async def until(site: ApiClient, true: Callable[[Tx], bool]) -> None:
    """Wait until `true` holds in the database; fails after 30 seconds."""
    async with asyncio.timeout(30):
        while not await site.context.db.read(true):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --------------------------------------------------------------------------------- delivery


@pytest.mark.usefixtures("allowed")
def test_webhook_receiver_down_gets_every_event_later_in_order_with_valid_signatures(
    site: ApiClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAUSES_SECONDS", (0.05, 0.1))
    jobs = [site.submit(job_title=f"job {n}")["id"] for n in range(3)]
    made = add(site, receiver.url)
    assert made["secret"].startswith("whsec_")

    async def story() -> None:
        async with sending(site):
            for value in range(10):
                for job in jobs:
                    await emit(site, job, value)
            await until(site, _tried)  # the attempt is refused: the receiver does not listen
        async with receiver.listening(), sending(site):  # with a new sender, as after a restart
            for job in jobs:
                await emit(site, job, 10)
            await receiver.until(33)
            await until(site, lambda tx: service.queued(tx) == 0)

    site.loop.run(story())
    for job in jobs:
        mine = [e for e in receiver.events if e["job"] == job]
        assert [e["data"]["priority"] for e in mine] == list(range(11))
        numbers = [e["number"] for e in mine]
        assert numbers == sorted(numbers)
    ids = {headers["webhook-id"] for headers, _ in receiver.got}
    assert len(ids) == len(receiver.got) == 33
    check = Webhook(made["secret"])
    for headers, body in receiver.got:
        assert check.verify(body, headers)["type"] == "job.priority"
    headers, body = receiver.got[0]
    with pytest.raises(WebhookVerificationError):
        check.verify(body.replace(b"priority", b"Priority"), headers)
    with pytest.raises(WebhookVerificationError):
        check.verify(body, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)})
    with pytest.raises(WebhookVerificationError):
        check.verify(body, headers | {"webhook-id": "dlv_other"})
    delivered = site.get(f"/api/webhooks/{made['id']}/deliveries?status=delivered&limit=500")["data"]
    assert {d["id"] for d in delivered} == ids


@pytest.mark.usefixtures("allowed")
def test_after_a_day_a_delivery_has_failed_later_ones_go_on_and_it_can_be_sent_again(
    site: ApiClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAUSES_SECONDS", (3600,))
    job = site.submit()["id"]
    made = add(site, receiver.url)
    path = f"/api/webhooks/{made['id']}"

    async def down() -> None:
        async with sending(site):
            await emit(site, job, 1)
            await emit(site, job, 2)
            await until(site, lambda tx: _tried(tx) and len(_all(tx)) == 2)

    site.loop.run(down())
    clock = site.context.db.clock_ms
    site.context.db.clock_ms = lambda: clock() + DAY_MS + 1000

    async def next_day() -> None:
        async with sending(site):
            await until(site, lambda tx: service.queued(tx) == 0)
            async with receiver.listening():
                await emit(site, job, 3)
                await receiver.until(1)

    site.loop.run(next_day())
    assert receiver.events[0]["data"] == {"priority": 3}
    shown = site.get(f"{path}/deliveries")["data"]
    failed = [d for d in shown if d["status"] == "failed"]
    assert len(failed) == 2
    assert all(d["error"] and d["next_attempt_at"] is None for d in failed)
    assert site.get(path)["failed"] == 2
    again = site.ask("POST", f"{path}/deliveries/{failed[-1]['id']}/resend")
    assert (again.status_code, again.json()["status"]) == (200, "pending")
    twice = site.ask("POST", f"{path}/deliveries/{failed[-1]['id']}/resend")
    assert twice.status_code == 409

    async def resent() -> None:
        async with receiver.listening(), sending(site):
            await receiver.until(2)

    site.loop.run(resent())
    assert receiver.events[1]["data"] == {"priority": 1}
    assert receiver.got[1][0]["webhook-id"] == failed[-1]["id"]


@pytest.mark.usefixtures("allowed")
def test_a_redirect_is_not_followed_and_only_a_2xx_is_a_delivery(site: ApiClient, receiver: Receiver) -> None:
    job = site.submit()["id"]
    made = add(site, receiver.url, events=["job.*"])
    receiver.answer = 302

    async def story() -> None:
        async with receiver.listening(), sending(site):
            await emit(site, job, 1)
            await receiver.until(1)
            await until(site, _tried)

    site.loop.run(story())
    (delivery,) = site.get(f"/api/webhooks/{made['id']}/deliveries")["data"]
    assert (delivery["status"], delivery["response_status"]) == ("pending", 302)
    assert "redirects are not followed" in delivery["error"]


@pytest.mark.usefixtures("allowed")
def test_address_no_longer_allowed_gets_no_request(site: ApiClient, receiver: Receiver) -> None:
    job = site.submit()["id"]
    made = add(site, receiver.url)
    site.context.settings.webhook_allowed_networks = ""

    async def story() -> None:
        async with receiver.listening(), sending(site):
            await emit(site, job, 1)
            await until(site, _tried)

    site.loop.run(story())
    assert receiver.got == []
    (delivery,) = site.get(f"/api/webhooks/{made['id']}/deliveries")["data"]
    assert "not an address on the public internet" in delivery["error"]


# ------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/", "http://localhost/", "http://[::1]/", "http://10.0.0.1/", "http://192.168.1.1/",
        "http://172.16.0.1/", "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://0.0.0.0/",
        "http://[::ffff:127.0.0.1]/", "http://[::ffff:169.254.169.254]/", "http://2130706433/", "http://0x7f.1/",
        "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://100.64.0.1/", "http://[fd00::1]/",
        "http://224.0.0.1/", "http://[::]/",
    ],
)  # fmt: skip
def test_private_networks_are_refused_without_the_setting(site: ApiClient, url: str) -> None:
    answer = site.ask("POST", "/api/webhooks", json={"url": url})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "url"
    assert site.rows(webhooks) == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com", "http://", "//example.com", "http://u:p@h/",
        "http://example.com/#x", "http://exa mple.com/", "http://a:99999/", "http://bad\\host/", "h" * 3000,
    ],
)  # fmt: skip
def test_malformed_webhook_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        addresses.check_url(url)


@pytest.mark.parametrize("text", ["93.184.215.14", "2606:2800:21f:cb07::1"])
def test_public_addresses_are_allowed(text: str) -> None:
    addresses.check_address(ipaddress.ip_address(text), ())


def test_a_name_is_resolved_once_and_that_address_is_connected_to(
    site: ApiClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers with a public address first and with loopback next gets nothing at loopback."""
    asked: list[str] = []
    connected: list[str] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def rebinding(host: str, port: int, **_: Any) -> list[Any]:
            asked.append(host)
            address = "127.0.0.1" if len(asked) > 1 else "93.184.215.14"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(loop, "getaddrinfo", rebinding)
        backend = addresses.GuardedBackend(())

        class Inner:
            async def connect_tcp(self, host: str, port: int, **_: Any) -> str:
                connected.append(host)
                return "connected"

        monkeypatch.setattr(backend, "_inner", Inner())
        assert await backend.connect_tcp("rebind.example", 80) == "connected"
        with pytest.raises(addresses.Forbidden):
            await backend.connect_tcp("rebind.example", 80)

    site.loop.run(story())
    assert (asked, connected) == (["rebind.example"] * 2, ["93.184.215.14"])


# ---------------------------------------------------------------------------------- people


@pytest.mark.usefixtures("allowed")
def test_secret_is_shown_once_can_be_changed_and_is_stored_in_no_row(site: ApiClient) -> None:
    made = add(site, "http://127.0.0.1:9/", description="mine")
    path = f"/api/webhooks/{made['id']}"
    assert "secret" not in site.get(path)
    assert [w["id"] for w in site.get("/api/webhooks")["data"]] == [made["id"]]
    changed = site.ask("PATCH", path, json={"enabled": False, "rotate_secret": True}).json()
    assert changed["secret"] not in {None, made["secret"]}
    assert changed["enabled"] is False
    assert site.ask("PATCH", path, json={"events": ["frame.done"]}).json()["secret"] is None
    dump = repr(site.rows(webhooks))
    assert made["secret"][6:] not in dump
    assert site.ask("DELETE", path).status_code == 204
    assert site.ask("GET", path).status_code == 404


@pytest.mark.usefixtures("allowed")
def test_webhooks_are_the_admins_and_another_accounts_are_not_there(
    site: ApiClient, other: ApiClient
) -> None:
    made = add(site, "http://127.0.0.1:9/")
    path = f"/api/webhooks/{made['id']}"
    asks = [("GET", path), ("PATCH", path), ("DELETE", path), ("GET", f"{path}/deliveries"),
            ("POST", f"{path}/deliveries/dlv_x/resend")]  # fmt: skip
    for method, where in asks:
        body = {"json": {"enabled": False}} if method == "PATCH" else {}
        assert other.ask(method, where, **body).status_code == 404, (method, where)
    key = site.ask("POST", "/api/auth/keys", json={"name": "k", "role": "member"}).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    assert site.ask("GET", "/api/webhooks", headers=headers).status_code == 403
    bad = site.ask("POST", "/api/webhooks", json={"url": "http://127.0.0.1:9/", "events": ["x y"], "z": 1})
    assert bad.status_code == 422


@pytest.mark.usefixtures("allowed")
def test_a_webhook_gets_the_types_it_asked_for(site: ApiClient, receiver: Receiver) -> None:
    job = site.submit()["id"]
    add(site, receiver.url, events=["job.priority"])
    site.ask("PATCH", f"/api/jobs/{job}", json={"action": "hold"})
    site.ask("PATCH", f"/api/jobs/{job}", json={"priority": 3})

    async def story() -> None:
        async with receiver.listening(), sending(site):
            await receiver.until(1)

    site.loop.run(story())
    assert [r["type"] for r in site.context.db.read_now(_all)] == ["job.priority"]
