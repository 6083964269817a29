"""Logins, keys and users: permissions, limits of failed logins, and the end of access."""

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
    """The farm without a token, from an address that no other test uses."""
    return dataclasses.replace(site, token="", address=new_address())


def new_address() -> str:
    return f"198.51.100.{next(_addresses)}"


def login(site: ApiClient, email: str, password: str, **more: Any) -> Any:
    return site.ask("POST", "/api/auth/login", json={"email": email, "password": password, **more})


def with_token(site: ApiClient, token: str) -> ApiClient:
    return dataclasses.replace(site, token=token)


def test_a_login_answers_its_user_and_its_expiry(site: ApiClient, door: ApiClient) -> None:
    answer = login(door, site.email.upper(), PASSWORD)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["token_type"], body["user"]["role"]) == ("bearer", "admin")
    assert datetime.fromisoformat(body["expires_at"]) > datetime.now(UTC) + timedelta(hours=11)
    assert "set-cookie" not in answer.headers
    assert with_token(site, body["access_token"]).get("/api/auth/me")["user"]["email"] == site.email
    assert body["access_token"] not in str(site.context.db.url)


def test_an_unknown_email_and_a_wrong_password_get_the_same_answer(site: ApiClient, door: ApiClient) -> None:
    answers = [login(door, site.email, "wrong"), login(door, "nobody@studio.example", "wrong")]
    member = member_of(site, "disabled@studio.example")
    user = member.get("/api/auth/me")["user"]["id"]
    site.ask("PATCH", f"/api/users/{user}", json={"disabled": True, "password": PASSWORD})
    answers.append(login(door, "disabled@studio.example", PASSWORD))
    bodies = [{k: v for k, v in a.json().items() if k != "request_id"} for a in answers]
    assert [a.status_code for a in answers] == [401, 401, 401]
    assert bodies == [bodies[0]] * 3


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("email", ["ada@studio.example", "nobody@studio.example"])
def test_the_sixth_failed_login_must_wait_and_other_addresses_need_not(
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


def test_the_login_cookie_is_accepted_for_reading_only(site: ApiClient, door: ApiClient) -> None:
    answer = login(door, site.email, PASSWORD, cookie=True)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    headers = {"Cookie": cookie.split(";")[0], "Authorization": ""}
    assert door.ask("GET", "/api/auth/me", headers=headers).status_code == 200
    assert door.ask("POST", "/api/projects", json={"name": "x"}, headers=headers).status_code == 401


def test_logout_ends_only_that_token(site: ApiClient, door: ApiClient) -> None:
    first, second = (login(door, site.email, PASSWORD).json()["access_token"] for _ in range(2))
    assert with_token(site, first).ask("POST", "/api/auth/logout").status_code == 204
    assert with_token(site, first).ask("GET", "/api/auth/me").status_code == 401
    assert with_token(site, second).ask("GET", "/api/auth/me").status_code == 200


def test_a_login_expires(site: ApiClient, door: ApiClient) -> None:
    token = login(door, site.email, PASSWORD).json()["access_token"]
    now = site.context.db.clock_ms
    site.context.db.clock_ms = lambda: now() + 12 * 3_600_000
    assert with_token(site, token).ask("GET", "/api/auth/me").status_code == 401


def test_a_change_of_a_user_ends_its_logins_and_keys_at_once(site: ApiClient) -> None:
    for number, change in enumerate(
        ({"disabled": True}, {"role": "admin"}, {"password": "another password"})
    ):
        member = member_of(site, f"mel{number}@studio.example")
        key = with_token(site, member.ask("POST", "/api/auth/keys", json={"name": "k"}).json()["key"])
        user = key.get("/api/auth/me")["user"]["id"]
        assert site.ask("PATCH", f"/api/users/{user}", json=change).status_code == 200
        assert [s.ask("GET", "/api/jobs").status_code for s in (member, key)] == [401, 401], change


def test_a_followed_log_ends_when_its_user_is_disabled(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = member_of(site, "mel@studio.example")
    user = member.get("/api/auth/me")["user"]["id"]
    job = site.submit(frame_range="1")["id"]
    begun, read = threading.Event(), job_routes._read_logs

    def read_logs(*args: Any) -> bytes:
        begun.set()
        return read(*args)

    monkeypatch.setattr(job_routes, "_read_logs", read_logs)

    async def follow() -> httpx2.Response:
        following = asyncio.create_task(member.call("GET", f"/api/jobs/{job}/tasks/0/log?follow=true"))
        assert await asyncio.to_thread(begun.wait, 30)
        assert not following.done()
        await site.call("PATCH", f"/api/users/{user}", json={"disabled": True})
        return await asyncio.wait_for(following, 30)

    assert site.loop.run(follow()).status_code == 200
    assert member.ask("GET", f"/api/jobs/{job}/tasks/0/log").status_code == 401


def test_keys_have_at_most_their_users_role_and_cannot_create_keys(site: ApiClient) -> None:
    member = member_of(site, "mel@studio.example")
    assert member.ask("POST", "/api/auth/keys", json={"name": "k", "role": "admin"}).status_code == 403
    created = member.ask("POST", "/api/auth/keys", json={"name": "k", "role": "member"}).json()
    key = with_token(site, created["key"])
    assert key.get("/api/auth/me")["token"] == "key"
    assert key.ask("POST", "/api/auth/keys", json={"name": "more"}).status_code == 403
    assert created["key"] not in site.ask("GET", "/api/auth/keys").text
    assert key.ask("GET", "/api/users").status_code == 403


def test_a_read_only_key_changes_nothing(site: ApiClient) -> None:
    created = site.ask("POST", "/api/auth/keys", json={"name": "screen", "role": "read"}).json()
    key = with_token(site, created["key"])
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
    assert with_token(site, other["key"]).ask("GET", "/api/jobs").status_code == 401
    assert with_token(site, brief["key"]).ask("GET", "/api/jobs").status_code == 200
    now = site.context.db.clock_ms
    site.context.db.clock_ms = lambda: now() + 300_000
    assert with_token(site, brief["key"]).ask("GET", "/api/jobs").status_code == 401


def test_a_member_sees_and_revokes_only_own_keys(site: ApiClient) -> None:
    member = member_of(site, "mel@studio.example")
    admins = site.ask("POST", "/api/auth/keys", json={"name": "admins"}).json()["id"]
    own = member.ask("POST", "/api/auth/keys", json={"name": "own"}).json()["id"]
    assert [k["id"] for k in member.get("/api/auth/keys")["data"]] == [own]
    assert member.ask("DELETE", f"/api/auth/keys/{admins}").status_code == 404
    assert {k["id"] for k in site.get("/api/auth/keys")["data"]} == {own, admins}
    assert site.ask("DELETE", f"/api/auth/keys/{own}").status_code == 204


def test_the_last_admin_cannot_be_removed(site: ApiClient) -> None:
    user = site.get("/api/auth/me")["user"]["id"]
    for change in ({"disabled": True}, {"role": "member"}):
        assert site.ask("PATCH", f"/api/users/{user}", json=change).status_code == 409
    assert site.get("/api/auth/me")["role"] == "admin"


def test_members_see_only_enabled_instance_types(site: ApiClient) -> None:
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
