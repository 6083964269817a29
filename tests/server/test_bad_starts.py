"""Starts that fail: the reason is printed in one sentence, without secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOWHERE = "postgresql+psycopg://farm:pass-word@127.0.0.1:1/farm"


@pytest.mark.parametrize(
    ("listen", "setting", "reason"),
    [
        ("127.0.0.1:99999", {}, "'127.0.0.1:99999' is not HOST:PORT"),
        ("127.0.0.1:0", {"FRAMEFARM_LEASE_SECONDS": "pass-word"}, "FRAMEFARM_LEASE_SECONDS: Input should be"),
        ("127.0.0.1:0", {"FRAMEFARM_DATABASE_URL": NOWHERE}, "cannot open the database: "),
    ],
)
def test_a_failed_start_prints_its_reason_without_secrets(
    tmp_path: Path, listen: str, setting: dict[str, str], reason: str
) -> None:
    framefarm = Path(sys.executable).with_name("framefarm")
    run = subprocess.run(
        [framefarm, "serve", "--data", tmp_path / "farm", "--listen", listen],
        env=os.environ | setting, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert reason in run.stderr
    assert "Traceback" not in run.stderr
    assert "pass-word" not in run.stderr


@pytest.mark.parametrize("command", [["serve"], ["admin", "account", "list"], ["blender", "list"]])
def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    framefarm = Path(sys.executable).with_name("framefarm")
    run = subprocess.run(
        [framefarm, *command, "--data", file], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 1
    assert str(file) in run.stderr
    assert "Traceback" not in run.stderr
