"""The operator's commands: the lock of the data directory, passwords, credit limits, permissions of keys."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient

from framefarm.core.errors import InvalidInput
from framefarm.server.accounts import passwords
from framefarm.server.database import Tx
from framefarm.server.operator import control_socket


def run(site: ApiClient, name: str, **arguments: Any) -> Any:
    return site.context.db.write_now(
        control_socket.execute, site.context, name, control_socket.prepare(name, arguments)
    )


# ----------------------------------------------------------- the lock of the data directory

HOLD = """
import sys; from pathlib import Path; from framefarm.server.operator import control_socket
with control_socket.lock_data(Path(sys.argv[1]), *sys.argv[2:]):
    print("held", flush=True); sys.stdin.read()
"""


def holder(data: Path, *who: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data), *who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_running_pid_is_that_of_a_farm_not_of_a_command(tmp_path: Path) -> None:
    assert control_socket.running_pid(tmp_path) is None
    with holder(tmp_path, control_socket.FARM) as context:
        assert control_socket.running_pid(tmp_path) == context.pid
        context.kill()
    assert control_socket.running_pid(tmp_path) is None
    with holder(tmp_path) as command:
        assert control_socket.running_pid(tmp_path) is None, (
            "`framefarm stop` would end a command in the middle of its work"
        )
        command.communicate()


def test_the_pid_of_a_killed_farm_in_the_lock_file_is_ignored(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as unrelated:
        with holder(tmp_path) as command:
            (tmp_path / control_socket.LOCK).write_text(f"farm {unrelated.pid}\n")
            assert control_socket.running_pid(tmp_path) is None
            command.communicate()
        unrelated.communicate("\n")


def test_a_farm_waits_for_a_running_command(tmp_path: Path) -> None:
    begun = threading.Event()
    with holder(tmp_path) as command:

        def serve() -> None:
            with control_socket.serve_data(tmp_path):
                begun.set()

        thread = threading.Thread(target=serve)
        thread.start()
        assert not begun.is_set()
        command.communicate()
        thread.join(30)
    assert begun.is_set()
    with holder(tmp_path, control_socket.FARM) as context:
        with pytest.raises(BlockingIOError), control_socket.serve_data(tmp_path):
            pass
        context.communicate()


# -------------------------------------------------------------------------------- passwords


def test_a_password_is_hashed_before_the_transaction(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = control_socket.prepare(
        "user.add",
        {"account": "studio", "email": "o@studio.example", "password": "a long one", "role": "member"},
    )
    assert "password" not in arguments

    def refuse(_password: str) -> str:
        raise AssertionError("hashed in the transaction")

    monkeypatch.setattr(passwords, "hash_password", refuse)
    user = site.context.db.write_now(control_socket.execute, site.context, "user.add", arguments)
    assert user["email"] == "o@studio.example"


# ---------------------------------------------------------------------------- credit limits


def spend(site: ApiClient, dollars: str) -> None:
    run(site, "credit.add", account="studio", amount=f"-{dollars}", kind="adjustment")


@pytest.mark.parametrize("limit", ["-1", "-0.000001"])
def test_a_credit_limit_is_not_negative(site: ApiClient, limit: str) -> None:
    with pytest.raises(InvalidInput, match="0 or more"):
        run(site, "account.set", account="studio", credit_limit=limit)


def test_an_account_over_its_credit_limit_cannot_submit_until_it_pays(site: ApiClient) -> None:
    spend(site, "20")
    old = site.submit()["id"]
    run(site, "account.set", account="studio", credit_limit="20")
    assert site.ask("POST", "/api/jobs", json=site.payload()).status_code == 201
    spend(site, "0.000001")
    refused = site.ask("POST", "/api/jobs", json=site.payload())
    assert refused.status_code == 409, refused.text
    assert "-20.000001 USD" in refused.json()["detail"]
    assert "20.00 USD" in refused.json()["detail"]
    assert refused.json()["state"] == "over_credit_limit"
    assert site.ask("POST", "/api/jobs?dry_run=true", json=site.payload()).status_code == 409
    assert site.ask("POST", "/api/jobs", json=site.payload(chunk_size=0)).status_code == 422
    assert site.render(old) == list(range(1, 10)), "a job submitted before is rendered"
    again = site.ask("POST", f"/api/jobs/{old}/retry", json={"frames": "1"})
    assert (again.status_code, again.json()["state"]) == (409, "over_credit_limit")
    run(site, "credit.add", account="studio", amount="1", kind="payment")
    assert site.ask("POST", "/api/jobs", json=site.payload()).status_code == 201
    spend(site, "100")
    run(site, "account.set", account="studio", credit_limit="none")
    assert site.ask("POST", "/api/jobs", json=site.payload()).status_code == 201


def test_costs_that_are_not_posted_yet_count_against_the_credit_limit(site: ApiClient) -> None:
    job = site.submit(chunk_size=1, frame_range="1-2")["id"]
    run(site, "account.set", account="studio", credit_limit="0")
    runner = site.runner(job)
    task = runner.sync().tasks[0]

    def start_earlier(tx: Tx) -> None:
        tx.conn.exec_driver_sql("UPDATE attempts SET assigned_ms = assigned_ms - 10000")

    site.context.db.write_now(start_earlier)
    runner.render(task, ms=5000)
    refused = site.ask("POST", "/api/jobs", json=site.payload())
    assert refused.status_code == 409, refused.text


# ---------------------------------------------------------------------------------- API keys


def test_a_key_cannot_create_or_change_logins(site: ApiClient) -> None:
    key = site.ask("POST", "/api/auth/keys", json={"name": "ci", "role": "admin"}).json()["key"]
    by_key = ApiClient(site.context, site.loop, site.app, key, site.account_id, site.email, site.instance)
    new = {"email": "u@studio.example", "password": "a long password", "role": "admin"}
    assert by_key.ask("POST", "/api/users", json=new).status_code == 403
    user = site.ask("POST", "/api/users", json=new | {"role": "member"}).json()["id"]
    for change in ({"role": "admin"}, {"password": "another password"}):
        assert by_key.ask("PATCH", f"/api/users/{user}", json=change).status_code == 403
    assert by_key.ask("PATCH", f"/api/users/{user}", json={"disabled": True}).status_code == 200
