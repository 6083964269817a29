"""A farm that cannot start says why in one sentence, and keeps its secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOWHERE = "postgresql+psycopg://farm:pass-word@127.0.0.1:1/farm"


@pytest.mark.parametrize(
    ("listen", "setting", "said"),
    [
        ("127.0.0.1:99999", {}, "'127.0.0.1:99999' is not HOST:PORT"),
        ("127.0.0.1:0", {"FRAMEFARM_LEASE_SECONDS": "pass-word"}, "FRAMEFARM_LEASE_SECONDS: Input should be"),
        ("127.0.0.1:0", {"FRAMEFARM_DATABASE_URL": NOWHERE}, "cannot open the database: "),
    ],
)
def test_what_keeps_a_farm_from_starting_is_said(
    tmp_path: Path, listen: str, setting: dict[str, str], said: str
) -> None:
    framefarm = Path(sys.executable).with_name("framefarm")
    ended = subprocess.run(
        [framefarm, "serve", "--data", tmp_path / "farm", "--listen", listen],
        env=os.environ | setting, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "pass-word" not in ended.stderr
