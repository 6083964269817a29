"""Output and exit codes of `framefarm budgets`, `rules` and `submit --notify` against a running farm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_farm import EMAIL, PASSWORD, RunningFarm
from typer.testing import CliRunner, Result

from framefarm.cli.main import build
from framefarm.client import Credentials, Login
from framefarm.server.operator import control_socket

MEMBER = "max@studio.example"


@pytest.fixture(scope="module")
def mail_farm(tmp_path_factory: pytest.TempPathFactory, scene: bytes) -> Iterator[RunningFarm]:
    """A farm with a mail server in its settings, so that it accepts `notify`. No job here sends a mail."""
    mail = {"smtp_url": "smtp://127.0.0.1:9", "mail_from": "farm@studio.example"}
    farm = RunningFarm(tmp_path_factory.mktemp("farm"), **mail)
    farm.open(scene)
    member = {"account": "studio", "email": MEMBER, "password": PASSWORD, "role": "member"}
    control_socket.run(farm.data, "user.add", member | {"create_account": False})
    yield farm
    farm.stop()


@pytest.fixture(autouse=True)
def login(mail_farm: RunningFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningFarm:
    """Log the command line in as the account's admin."""
    for name in ("CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    for name in ("FRAMEFARM_URL", "FRAMEFARM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    token = str(mail_farm.client.headers["Authorization"]).removeprefix("Bearer ")
    Credentials().save(Login(str(mail_farm.client.base_url).rstrip("/"), token))
    return mail_farm


def run(*words: str) -> Result:
    return CliRunner().invoke(build(words[0]), list(words))


def json_of(*words: str) -> Any:
    """The JSON document that a successful command prints."""
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(*words: str) -> str:
    """The error text of a refused command, which exits with 1 with and without `--json`."""
    plain, document = run(*words), run(*words, "--json")
    assert (plain.exit_code, document.exit_code, plain.stdout, document.stdout) == (1, 1, "", "")
    assert "Traceback" not in plain.stderr
    assert json.loads(document.stderr)["error"]["detail"]
    return " ".join(plain.stderr.split())


# ---------------------------------------------------------------------------------- budgets


def test_a_budget_is_set_listed_changed_and_removed() -> None:
    made = run("budgets", "set", "250.50", "--mode", "stop", "--warn-at", "50%", "--cancel-at", "none")
    assert made.exit_code == 0, made.output
    name, *_ = made.stdout.split()
    assert "$250.50 for the account, a month" in made.stdout
    assert "warns at 50%, holds at 100%; stop" in made.stdout
    (row,) = json_of("budgets", "list")["data"]
    assert (row["id"], row["amount"]["amount_micros"], row["warn_at"]) == (name, 250_500_000, 50)
    changed = json_of("budgets", "change", name, "--amount", "1000", "--warn-at", "none", "--mode", "drain")
    assert (changed["amount"]["amount_micros"], changed["warn_at"], changed["mode"]) == (10**9, None, "drain")
    assert "$1,000.00" in run("budgets", "list").stdout
    assert json_of("budgets", "remove", name) == {"id": name, "removed": True}
    nothing = run("budgets", "list")
    assert (nothing.stdout, "framefarm budgets set" in nothing.stderr) == ("", True)


def test_a_budget_of_a_project_and_of_a_job_says_so(mail_farm: RunningFarm) -> None:
    job = mail_farm.submit(hold=True)["id"]
    assert "for project default, a month" in run("budgets", "set", "5", "--project", "default").stdout
    row = json_of("budgets", "set", "5", "--job", job)
    assert (row["job"], row["period"]) == (job, "total")
    shown = run("budgets", "list").stdout
    assert f"for {job}, in all" in shown
    for one in json_of("budgets", "list")["data"]:
        json_of("budgets", "remove", one["id"])
    mail_farm.client.patch(f"/api/jobs/{job}", json={"action": "cancel"})


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["set", "lots"], ["lots", "250 or 12.50"]),
        (["set", "0"], ["AMOUNT", "given: 0"]),
        (["set", "5", "--hold-at", "soon"], ["--hold-at", "soon", "percent, or none"]),
        (["set", "5", "--hold-at", "0"], ["--hold-at", "given: 0"]),
        (["set", "5", "--project", "nosuch"], ["project", "nosuch"]),
        (["set", "5", "--job", "job_nosuch"], ["job", "job_nosuch"]),
        (["set", "5", "--project", "default", "--job", "job_1"], ["project", "job"]),
        (["change", "bud_nosuch", "--amount", "5"], ["There is no budget bud_nosuch"]),
        (["change", "bud_nosuch"], ["Give a change", "--amount"]),
        (["remove", "bud_nosuch"], ["There is no budget bud_nosuch"]),
    ],
)
def test_a_budget_that_cannot_be_says_what_was_given_and_what_is_allowed(
    words: list[str], parts: list[str]
) -> None:
    text = refusal("budgets", *words)
    assert [w for w in parts if w not in text] == [], text


# ------------------------------------------------------------------------------------ rules


def test_rules_are_added_switched_and_removed() -> None:
    assert "seconds: 2 h, action: kill" in run("rules", "add-runtime", "7200", "--action", "kill").stdout
    demand = json_of("rules", "add-on-demand", "900", "--min-priority", "80")
    assert demand["terms"] == {"wait_seconds": 900, "min_priority": 80}
    upload = json_of("rules", "add-upload", "--remind-after", "3600")
    assert upload["terms"] == {"remind_after_seconds": 3600, "fail_after_seconds": None}
    assert not json_of("rules", "switch", demand["id"], "--off")["enabled"]
    shown = run("rules", "list").stdout
    assert f"{demand['id']}  spot_to_on_demand  (off)" in shown
    assert "remind after: 1 h" in shown
    rows = json_of("rules", "list")["data"]
    assert len(rows) == 3
    for row in rows:
        json_of("rules", "remove", row["id"])
    nothing = run("rules", "list")
    assert (nothing.stdout, "framefarm rules add-runtime" in nothing.stderr) == ("", True)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["add-runtime", "0"], ["SECONDS", "given: 0"]),
        (["add-on-demand", "900", "--min-priority", "200"], ["--min-priority", "100", "given: 200"]),
        (["add-upload"], ["remind after", "fail after"]),
        (["switch", "rul_nosuch", "--on"], ["There is no rule rul_nosuch"]),
        (["remove", "rul_nosuch"], ["There is no rule rul_nosuch"]),
    ],
)
def test_a_rule_that_cannot_be_says_what_was_given_and_what_is_allowed(
    words: list[str], parts: list[str]
) -> None:
    text = refusal("rules", *words)
    assert [w for w in parts if w not in text] == [], text


@pytest.mark.parametrize(
    "words",
    [["rules", "add-runtime", "soon"], ["rules", "add-runtime", "60", "--action", "explode"],
     ["budgets", "set", "5", "--mode", "maybe"], ["budgets", "set"], ["rules", "switch", "rul_1"]],
)  # fmt: skip
def test_a_wrong_word_is_a_mistake_of_usage(words: list[str]) -> None:
    done = run(*words)
    assert (done.exit_code, "Traceback" in done.output) == (2, False)


def test_budgets_and_rules_are_the_admins(mail_farm: RunningFarm) -> None:
    answer = mail_farm.client.post("/api/auth/login", json={"email": MEMBER, "password": PASSWORD})
    Credentials().save(Login(str(mail_farm.client.base_url).rstrip("/"), answer.json()["access_token"]))
    assert "admin" in refusal("budgets", "set", "5")
    assert "admin" in refusal("rules", "add-runtime", "60")


# ------------------------------------------------------------------------------------- mail


@pytest.mark.blender
def test_notify_is_kept_with_the_job_and_a_stranger_is_refused_by_name(
    mail_farm: RunningFarm, scene: bytes, tmp_path: Path
) -> None:
    (tmp_path / "shot.blend").write_bytes(scene)
    words = ["submit", str(tmp_path / "shot.blend"), "--hold", "--notify", EMAIL, "--notify", MEMBER]
    job = json_of(*words, "--notify-on", "success")
    assert job["notify"] == {"email": [EMAIL, MEMBER], "on": ["success"]}
    usual = json_of(*words)["notify"]
    assert usual["on"] == ["success", "failed", "holding"]
    text = refusal(*words, "--notify", "eve@rival.example")
    assert "--notify (email): " in text and "eve@rival.example" in text
    assert "--notify-on" in refusal(*words, "--notify-on", "lunch")
