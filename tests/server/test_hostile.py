"""Hostile and unlucky requests: each is bounded and answered, and does no harm to others."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_client import SCENE, ApiClient

from framefarm.core.errors import Conflict
from framefarm.core.frames import FrameSet
from framefarm.protocol import node as msg
from framefarm.protocol.api_accounts import NewUser
from framefarm.server.accounts.tables import accounts
from framefarm.server.catalog import destinations
from framefarm.server.context import Keyring
from framefarm.server.files import uploads
from framefarm.server.files.tables import contents
from framefarm.server.http.tables import idempotency
from framefarm.server.jobs.records import SceneRecord
from framefarm.server.rows import JobRow
from framefarm.server.sessions import routes as node_routes
from framefarm.server.submission import scene_reading
from framefarm.server.timestamps import iso

MiB = 1 << 20


class Endless:
    """A body of 64 MiB that counts its bytes that were read."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(1024):
            self.read += 1 << 16
            yield b" " * (1 << 16)


@pytest.mark.parametrize("path", ["/api/auth/login", "/api/jobs", "/api/nowhere"])
def test_a_large_body_without_a_valid_token_is_not_read(site: ApiClient, path: str) -> None:
    body = Endless()
    anonymous = dataclasses.replace(site, token="wrong")
    headers = {"Content-Type": "application/json"}
    assert anonymous.ask("POST", path, content=body, headers=headers).status_code == 401
    assert body.read < MiB


@pytest.mark.parametrize("call", ["hello", "sync", "reports"])
def test_a_large_call_of_a_session_is_not_read_without_its_token(site: ApiClient, call: str) -> None:
    body = Endless()
    runner = site.runner(site.submit()["id"])
    anonymous = dataclasses.replace(site, token="wrong")
    answer = anonymous.ask("POST", f"/node/v1/sessions/{runner.session}/{call}", content=body)
    assert answer.status_code == 401
    assert body.read < MiB


def test_a_report_beyond_the_limit_is_a_413(site: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_routes, "MAX_BODY_BYTES", MiB)
    body = Endless()
    runner = site.runner(site.submit()["id"])
    node = dataclasses.replace(site, token=runner.token)
    answer = node.ask("POST", f"/node/v1/sessions/{runner.session}/reports", content=body)
    assert answer.status_code == 413
    assert body.read < 2 * MiB


def test_a_report_of_too_many_events_is_a_422_and_changes_nothing(site: ApiClient) -> None:
    runner = site.runner(site.submit()["id"])
    node = dataclasses.replace(site, token=runner.token)
    path = f"/node/v1/sessions/{runner.session}/reports"
    event = msg.TaskReleased(attempt="att_none")
    too_many = msg.Report(seq=1, events=[event] * (msg.MAX_EVENTS + 1))
    answer = node.ask("POST", path, content=msgspec.json.encode(too_many))
    assert answer.status_code == 422
    assert str(msg.MAX_EVENTS) in answer.json()["detail"]
    most = msg.Report(seq=1, events=[event] * msg.MAX_EVENTS)
    assert node.ask("POST", path, content=msgspec.json.encode(most)).json()["last_seq"] == 1


def test_a_long_report_is_decoded_outside_of_the_event_loop(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def decode(body: bytes, **kind: Any) -> Any:
        threads.append(threading.current_thread().name)
        return msgspec.json.decode(body, **kind)

    monkeypatch.setattr(node_routes, "decode", decode)
    runner = site.runner(site.submit()["id"])
    node = dataclasses.replace(site, token=runner.token)
    report = msg.Report(seq=1, events=[msg.TaskReleased(attempt="a" * node_routes.THREAD_BYTES)])
    path = f"/node/v1/sessions/{runner.session}/reports"
    assert node.ask("POST", path, content=msgspec.json.encode(report)).json()["verdicts"] == ["superseded"]
    assert [name.split()[0] for name in threads] == ["AnyIO"]


def test_many_bad_items_of_a_map_are_reported_in_linear_time(site: ApiClient) -> None:
    pins = dict.fromkeys(map(str, range(20_000)), 1)
    began = time.process_time()
    answer = site.ask("POST", "/api/jobs", json=site.payload(upload_md5s=pins))
    assert answer.status_code == 422
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "body",
    [{"upload_md5s": dict.fromkeys(map(str, range(100_001)), 1)}, dict.fromkeys(map(str, range(1001)))],
    ids=["items", "fields"],
)
def test_a_field_with_too_many_items_is_reported_once(site: ApiClient, body: dict[str, Any]) -> None:
    answer = site.ask("POST", "/api/jobs", json=body)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 1


@pytest.mark.parametrize(
    "field",
    [
        {"scene": "x" * 256}, {"camera": "x" * 256}, {"view_layers": ["x" * 256]}, {"scene": "\ud800"},
        {"environment_variables": {"A": "\ud800"}}, {"depends_on": ["\ud800"]},
    ],
    ids=lambda f: f"{next(iter(f))}-{str(f)[-8:]}",
)  # fmt: skip
def test_names_that_are_too_long_or_no_utf_8_are_bad_input(site: ApiClient, field: dict[str, Any]) -> None:
    body = json.dumps(site.payload(**field)).encode()
    answer = site.ask("POST", "/api/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert [e["field"].split(".")[0].split("[")[0] for e in answer.json()["errors"]] == list(field)


def test_a_far_too_large_time_in_a_signed_address_is_bad_input(site: ApiClient) -> None:
    answer = site.ask("GET", f"/api/files/1?expires={'9' * 400}&signature=a")
    assert answer.status_code == 422


def test_a_time_after_the_year_9999_is_written_as_its_end() -> None:
    assert iso(253_402_387_140_000) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_damaged_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret.key").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        Keyring.open(tmp_path / "secret.key")


def test_a_farm_killed_while_it_creates_its_secret_creates_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.key"
    with monkeypatch.context() as dying:
        dying.setattr("os.fsync", lambda _fd: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Keyring.open(path)
    assert not path.exists()
    keys = Keyring.open(path)
    assert keys.key("x") == Keyring.open(path).key("x")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_clock_that_went_back_bills_nothing_and_stops_no_report(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.submit(frame_range="1")["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    earlier = site.context.db.clock_ms() - 3_600_000
    monkeypatch.setattr(site.context.db, "clock_ms", lambda: earlier)
    runner.render(task, ms=50)
    (attempt,) = site.get(f"/api/jobs/{job}/attempts")["data"]
    assert (attempt["outcome"], attempt["billed_seconds"]) == ("success", 0)


def test_an_upload_that_exceeds_the_quota_only_at_its_end_leaves_no_bytes(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.upload("/a", b"x" * 60).status_code == 200

    async def no_limit(*_: Any) -> Any:
        return uploads._Limit(MiB, uploads.TooLarge("never"))

    monkeypatch.setattr(uploads, "_size_limit", no_limit)
    site.context.db.write_now(lambda tx: tx.conn.execute(accounts.update().values(quota_bytes=100)))
    assert site.upload("/b", b"y" * 60).status_code == 413
    kept = [p for p in (site.context.data / "store/content").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in kept] == [b"x" * 60]
    assert len(site.rows(contents)) == 1


def test_scenes_are_read_one_at_a_time_for_each_account(site: ApiClient, other: ApiClient) -> None:
    for client, count in ((site, 3), (other, 1)):
        assert client.upload().status_code == 200
        for _ in range(count):
            assert client.ask("POST", "/api/jobs", json=client.payload()).status_code == 201
    waiting = site.context.db.read_now(scene_reading.unread_jobs)
    assert sorted(j.account_id for j in waiting) == sorted([site.account_id, other.account_id])


def test_an_error_while_reading_a_scene_does_not_stop_the_next_scene(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.upload().status_code == 200
    first, second = (
        site.ask("POST", "/api/jobs", json=site.payload(job_title=t)).json()["id"] for t in ("bad", "good")
    )
    read_jobs: list[str] = []
    both = threading.Event()

    def read(_context: Any, job: JobRow, _offers: object) -> SceneRecord:
        read_jobs.append(job.id)
        if job.id == first:
            raise OSError("the disk")
        both.set()
        return SceneRecord(SCENE, FrameSet.from_text("1-9"), FrameSet.from_text(""), {}, [])

    monkeypatch.setattr(scene_reading, "read_scene", read)

    async def until_both_were_tried() -> None:
        reading = asyncio.create_task(scene_reading.run_loop(site.context))
        await asyncio.to_thread(both.wait, 30)
        reading.cancel()

    site.loop.run(until_both_were_tried())
    assert read_jobs == [first, second]


def test_no_plain_hash_of_a_request_with_an_idempotency_key_is_stored(site: ApiClient) -> None:
    new_user = NewUser(email="new@studio.example", password="correct horse battery")
    headers = {"Idempotency-Key": "k"}
    answer = site.ask("POST", "/api/users", json=new_user.model_dump(), headers=headers)
    assert answer.status_code == 201
    plain = hashlib.sha256(f"\n{new_user.model_dump_json()}".encode()).hexdigest()
    assert site.row(idempotency)["body_sha256"] != plain


def test_a_read_only_key_cannot_revoke_keys(site: ApiClient) -> None:
    keys = {
        role: site.ask("POST", "/api/auth/keys", json={"name": role, "role": role}).json()
        for role in ("read", "member")
    }
    reader = dataclasses.replace(site, token=keys["read"]["key"])
    assert reader.ask("DELETE", f"/api/auth/keys/{keys['member']['id']}").status_code == 403


@pytest.mark.parametrize("wide", ["file:///", "file:///srv"])
def test_a_destination_that_contains_another_accounts_is_refused(
    site: ApiClient, other: ApiClient, wide: str
) -> None:
    def grant(account_id: str, url: str) -> None:
        site.context.db.write_now(lambda tx: destinations.grant(tx, account_id, url))

    grant(site.account_id, "file:///srv/films")
    with pytest.raises(Conflict):
        grant(other.account_id, wide)
