"""Logins, keys, users: who may do what, how guessing is slowed down, and how access ends."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from api_client import ApiClient, member_of

from framefarm.server.job_api import routes as job_routes

PASSWORD = "correct horse battery"
_addresses = itertools.count(1)


@pytest.fixture
def door(site: ApiClient) -> ApiClient:
    """The farm as a stranger sees it, from an address nobody else has."""
    return dataclasses.replace(site, token="", address=new_address())


def new_address() -> str:
    return f"198.51.100.{next(_addresses)}"


def login(site: ApiClient, email: str, password: str, **more: Any) -> Any:
    return site.ask("POST", "/api/auth/login", json={"email": email, "password": password, **more})


def seen_as(site: ApiClient, token: str) -> ApiClient:
    return dataclasses.replace(site, token=token)


def test_a_login_says_who_it_is_for_and_until_when(site: ApiClient, door: ApiClient) -> None:
    answer = login(door, site.email.upper(), PASSWORD)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["token_type"], said["user"]["role"]) == ("bearer", "admin")
    assert datetime.fromisoformat(said["expires_at"]) > datetime.now(UTC) + timedelta(hours=11)
    assert "set-cookie" not in answer.headers
    assert seen_as(site, said["access_token"]).get("/api/auth/me")["user"]["email"] == site.email
    assert said["access_token"] not in str(site.context.db.url)


def test_an_unknown_email_and_a_wrong_password_get_the_same_answer(site: ApiClient, door: ApiClient) -> None:
    answers = [login(door, site.email, "wrong"), login(door, "nobody@studio.example", "wrong")]
    member = member_of(site, "gone@studio.example")
    user = member.get("/api/auth/me")["user"]["id"]
    site.ask("PATCH", f"/api/users/{user}", json={"disabled": True, "password": PASSWORD})
    answers.append(login(door, "gone@studio.example", PASSWORD))
    bodies = [{k: v for k, v in a.json().items() if k != "request_id"} for a in answers]
    assert [a.status_code for a in answers] == [401, 401, 401]
    assert bodies == [bodies[0]] * 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("email", ["ada@studio.example", "nobody@studio.example"])
def test_the_sixth_failure_waits_and_nobody_is_locked_out_by_others(
    site: ApiClient, door: ApiClient, email: str
) -> None:
    assert [login(door, email, "guess").status_code for _ in range(5)] == [401] * 5
    sixth = login(door, email, "guess")
    assert sixth.status_code == 429
    assert 0 < int(sixth.headers["retry-after"]) <= 15 * 60
    assert login(door, email, PASSWORD).status_code == 429
    # The email is not locked for its owner elsewhere, nor the address for other people at once.
    elsewhere = dataclasses.replace(door, address=new_address())
    assert login(elsewhere, email, PASSWORD).status_code == (200 if email == site.email else 401)
    assert login(door, "another@studio.example", "guess").status_code == 401


def test_the_cookie_only_reads(site: ApiClient, door: ApiClient) -> None:
    answer = login(door, site.email, PASSWORD, cookie=True)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    held = {"Cookie": cookie.split(";")[0], "Authorization": ""}
    assert door.ask("GET", "/api/auth/me", headers=held).status_code == 200
    assert door.ask("POST", "/api/projects", json={"name": "x"}, headers=held).status_code == 401


def test_logout_ends_that_token_alone(site: ApiClient, door: ApiClient) -> None:
    one, two = (login(door, site.email, PASSWORD).json()["access_token"] for _ in range(2))
    assert seen_as(site, one).ask("POST", "/api/auth/logout").status_code == 204
    assert seen_as(site, one).ask("GET", "/api/auth/me").status_code == 401
    assert seen_as(site, two).ask("GET", "/api/auth/me").status_code == 200


def test_a_token_ends_with_its_time(site: ApiClient, door: ApiClient) -> None:
    token = login(door, site.email, PASSWORD).json()["access_token"]
    now = site.context.db.clock_ms
    site.context.db.clock_ms = lambda: now() + 12 * 3_600_000
    assert seen_as(site, token).ask("GET", "/api/auth/me").status_code == 401


def test_a_change_of_a_user_ends_every_access_at_once(site: ApiClient) -> None:
    for number, change in enumerate(
        ({"disabled": True}, {"role": "admin"}, {"password": "another password"})
    ):
        member = member_of(site, f"mel{number}@studio.example")
        key = seen_as(site, member.ask("POST", "/api/auth/keys", json={"name": "k"}).json()["key"])
        user = key.get("/api/auth/me")["user"]["id"]
        assert site.ask("PATCH", f"/api/users/{user}", json=change).status_code == 200
        assert [s.ask("GET", "/api/jobs").status_code for s in (member, key)] == [401, 401], change


def test_a_log_that_is_followed_ends_with_the_access(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = member_of(site, "mel@studio.example")
    user = member.get("/api/auth/me")["user"]["id"]
    job = site.submit(frame_range="1")["id"]
    begun, read = threading.Event(), job_routes._read_logs

    def seen(*args: Any) -> bytes:
        begun.set()
        return read(*args)

    monkeypatch.setattr(job_routes, "_read_logs", seen)

    async def follow() -> httpx2.Response:
        following = asyncio.create_task(member.call("GET", f"/api/jobs/{job}/tasks/0/log?follow=true"))
        assert await asyncio.to_thread(begun.wait, 30)
        assert not following.done()
        await site.call("PATCH", f"/api/users/{user}", json={"disabled": True})
        return await asyncio.wait_for(following, 30)

    assert site.loop.run(follow()).status_code == 200
    assert member.ask("GET", f"/api/jobs/{job}/tasks/0/log").status_code == 401


def test_keys_are_never_above_their_user_and_make_no_keys(site: ApiClient) -> None:
    member = member_of(site, "mel@studio.example")
    assert member.ask("POST", "/api/auth/keys", json={"name": "k", "role": "admin"}).status_code == 403
    made = member.ask("POST", "/api/auth/keys", json={"name": "k", "role": "member"}).json()
    key = seen_as(site, made["key"])
    assert key.get("/api/auth/me")["token"] == "key"
    assert key.ask("POST", "/api/auth/keys", json={"name": "more"}).status_code == 403
    assert made["key"] not in site.ask("GET", "/api/auth/keys").text
    assert key.ask("GET", "/api/users").status_code == 403


def test_a_reading_key_changes_nothing(site: ApiClient) -> None:
    made = site.ask("POST", "/api/auth/keys", json={"name": "screen", "role": "read"}).json()
    key = seen_as(site, made["key"])
    job = site.submit()["id"]
    assert key.ask("GET", f"/api/jobs/{job}").status_code == 200
    refused = [
        key.ask("POST", "/api/jobs", json=key.payload()),
        key.ask("POST", "/api/jobs?dry_run=true", json=key.payload()),
        key.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"}),
        key.ask("DELETE", f"/api/jobs/{job}"),
        key.ask("POST", f"/api/jobs/{job}/retry"),
        key.ask("POST", "/api/projects", json={"name": "x"}),
        key.ask("POST", "/api/uploads/md5", json={"md5": "0" * 32}),
        key.upload(),
        key.ask("POST", "/api/auth/keys", json={"name": "more", "role": "read"}),
        key.ask("PATCH", f"/api/enterprise/instances/{site.instance}", json={"enabled": False}),
    ]
    assert [a.status_code for a in refused] == [403] * len(refused)


def test_a_key_ends_when_revoked_or_expired(site: ApiClient) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    for wrong in ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00", "tomorrow", 4102444800):
        refused = site.ask("POST", "/api/auth/keys", json={"name": "k", "expires_at": wrong})
        assert [e["field"] for e in refused.json()["errors"]] == ["expires_at"], wrong
    brief = site.ask("POST", "/api/auth/keys", json={"name": "k", "expires_at": soon}).json()
    other = site.ask("POST", "/api/auth/keys", json={"name": "k"}).json()
    assert site.ask("DELETE", f"/api/auth/keys/{other['id']}").status_code == 204
    assert site.ask("DELETE", f"/api/auth/keys/{other['id']}").status_code == 404
    assert seen_as(site, other["key"]).ask("GET", "/api/jobs").status_code == 401
    assert seen_as(site, brief["key"]).ask("GET", "/api/jobs").status_code == 200
    now = site.context.db.clock_ms
    site.context.db.clock_ms = lambda: now() + 300_000
    assert seen_as(site, brief["key"]).ask("GET", "/api/jobs").status_code == 401


def test_a_member_revokes_own_keys_and_sees_no_others(site: ApiClient) -> None:
    member = member_of(site, "mel@studio.example")
    admins = site.ask("POST", "/api/auth/keys", json={"name": "admins"}).json()["id"]
    own = member.ask("POST", "/api/auth/keys", json={"name": "own"}).json()["id"]
    assert [k["id"] for k in member.get("/api/auth/keys")["data"]] == [own]
    assert member.ask("DELETE", f"/api/auth/keys/{admins}").status_code == 404
    assert {k["id"] for k in site.get("/api/auth/keys")["data"]} == {own, admins}
    assert site.ask("DELETE", f"/api/auth/keys/{own}").status_code == 204


def test_the_last_admin_stays(site: ApiClient) -> None:
    user = site.get("/api/auth/me")["user"]["id"]
    for change in ({"disabled": True}, {"role": "member"}):
        assert site.ask("PATCH", f"/api/users/{user}", json=change).status_code == 409
    assert site.get("/api/auth/me")["role"] == "admin"


def test_members_see_only_enabled_instances(site: ApiClient) -> None:
    member = member_of(site, "mel@studio.example")
    switched = site.ask("PATCH", f"/api/enterprise/instances/{site.instance}", json={"enabled": False})
    assert switched.status_code == 200
    shown = {i["id"]: i["enabled"] for i in site.get("/api/enterprise/instances")["data"]}
    assert shown[site.instance] is False
    assert site.instance not in {i["id"] for i in member.get("/api/enterprise/instances")["data"]}
    refused = member.ask("POST", "/api/jobs", json=member.payload()).json()
    unknown = member.ask("POST", "/api/jobs", json=member.payload(instance_type="moon-1")).json()
    assert refused["errors"][0]["message"] == unknown["errors"][0]["message"]
    assert site.instance not in refused["errors"][0]["message"]
