"""Every change by a user or an operator's command is audited with its actor and action, without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient

from framefarm.core.errors import FarmError
from framefarm.server.accounts.tables import audit
from framefarm.server.nodes.tables import nodes
from framefarm.server.operator import control_socket

SECRET = "a password that nobody shall read"
CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("account.create", {"account": "north"}, "account.create"),
    ("account.set", {"account": "studio", "credit_limit": "100"}, "account.set"),
    ("account.set", {"account": "studio", "allow_scripts": True}, "account.set"),
    (
        "user.add",
        {"account": "studio", "email": "o@studio.example", "password": SECRET, "role": "member"},
        "user.create",
    ),
    ("user.set", {"email": "o@studio.example", "password": SECRET + "!"}, "user.change"),
    ("credit.add", {"account": "studio", "amount": "5", "kind": "payment"}, "ledger.post"),
    ("price.set", {"instance": "local-1", "on_demand": "0.5"}, "price.set"),
    (
        "package.register",
        {"id": "blender-4-5", "kind": "executable", "path": "/nowhere", "release": "4.5.1"},
        "package.register",
    ),
    ("output.add", {"account": "studio", "url": "gs://films"}, "output.add"),
    ("output.remove", {"account": "studio", "url": "gs://films"}, "output.remove"),
    ("node.set_aside", {"node": "m", "reason": "a new disk"}, "node.set_aside"),
    ("node.return", {"node": "m"}, "node.in_use"),
]
READS = {"account.list", "user.list", "package.list", "output.list", "node.list"}
NODE = {
    "name": "m", "zone": "", "market": "any", "present": True, "standing": "in_use", "since_ms": 0,
    "counted_from_ms": 0, "times": 0,
}  # fmt: skip


def rows(site: ApiClient) -> list[Any]:
    return sorted(site.rows(audit), key=lambda r: r["id"])


def test_every_changing_command_of_the_operator_is_audited(site: ApiClient) -> None:
    assert {name for name, _, _ in CHANGES} | READS == set(control_socket.COMMANDS)
    site.context.db.write_now(lambda tx: tx.conn.execute(sa.insert(nodes).values(NODE)))
    for name, arguments, action in CHANGES:
        before = len(rows(site))
        site.context.db.write_now(
            control_socket.execute, site.context, name, control_socket.prepare(name, arguments)
        )
        new = rows(site)[before:]
        assert new, name
        assert {(r["action"], r["actor"]) for r in new} == {(action, "operator")} or name == "account.create"
        assert action in {r["action"] for r in new}
    before = len(rows(site))
    for name in READS:
        site.context.db.write_now(control_socket.execute, site.context, name, {"account": "studio"})
    assert len(rows(site)) == before
    assert SECRET not in json.dumps([dict(r) for r in rows(site)], default=str)


def test_a_refused_command_is_not_audited(site: ApiClient) -> None:
    wrong = {"account": "nobody", "email": "no@x.example", "amount": "x", "instance": "moon", "url": "x",
             "password": "short", "role": "king", "on_demand": "-1", "node": "moon",
             "reason": "x"}  # fmt: skip
    before = rows(site)
    for name in {name for name, _, _ in CHANGES} - {"account.create", "package.register"}:
        with pytest.raises(FarmError):
            site.context.db.write_now(
                control_socket.execute, site.context, name, control_socket.prepare(name, wrong)
            )
    with pytest.raises(FarmError):
        site.context.db.write_now(
            control_socket.execute, site.context, "account.create", {"account": "studio"}
        )
    assert rows(site) == before


def test_every_change_over_the_api_is_audited(site: ApiClient) -> None:
    job = site.submit(frame_range="1-2")["id"]
    project = site.ask("POST", "/api/projects", json={"name": "p"}).json()["id"]
    new_user = {"email": "u@studio.example", "password": SECRET}
    user = site.ask("POST", "/api/users", json=new_user).json()["id"]
    key = site.ask("POST", "/api/auth/keys", json={"name": "k"}).json()
    for method, path, body, action, target in (
        ("PATCH", f"/api/jobs/{job}", {"action": "hold"}, "job.hold", job),
        ("PATCH", f"/api/jobs/{job}", {"priority": 7}, "job.priority", job),
        ("PATCH", f"/api/jobs/{job}", {"action": "unhold"}, "job.unhold", job),
        ("PATCH", f"/api/jobs/{job}", {"action": "cancel"}, "job.cancel", job),
        ("DELETE", f"/api/jobs/{job}", None, "job.delete", job),
        ("PATCH", f"/api/projects/{project}", {"status": "archived"}, "project.change", project),
        ("PATCH", f"/api/users/{user}", {"password": SECRET + "!"}, "user.change", user),
        ("DELETE", f"/api/auth/keys/{key['id']}", None, "key.revoke", key["id"]),
        ("PATCH", f"/api/enterprise/instances/{site.instance}", {"enabled": False}, "instance.switch",
         site.instance),
    ):  # fmt: skip
        before = len(rows(site))
        answer = site.ask(method, path, **({} if body is None else {"json": body}))
        assert answer.status_code in {200, 204}, answer.text
        (row,) = rows(site)[before:]
        assert (row["action"], row["target"], row["actor"]) == (action, target, f"user:{site.email}")
        assert row["account_id"] == site.account_id
        assert row["request_id"] == answer.headers["x-request-id"], action
    actions = {r["action"] for r in rows(site)}
    assert actions >= {"job.submit", "project.create", "user.create", "key.create"}
    text = json.dumps([dict(r) for r in rows(site)], default=str)
    assert SECRET not in text
    assert key["key"] not in text
    assert "argon2" not in text
