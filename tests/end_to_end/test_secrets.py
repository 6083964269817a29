"""Secrets stay out of argument lists, environments and logs while a job runs."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path

import pytest
from running_farm import RunningFarm

from framefarm.sandboxing.usage_monitor import descendants
from framefarm.server.bootstrap import DATABASE
from framefarm.server.context import Keyring

SECRET = "licence-key-of-the-studio"
WORD = re.compile(rb"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")


@pytest.mark.blender
def test_no_secret_is_in_an_argument_list_an_environment_or_a_log_of_a_whole_run(farm: RunningFarm) -> None:
    assert farm.process is not None
    login = farm.client.headers["Authorization"].removeprefix("Bearer ").encode()
    job = farm.submit(
        frame_range="1-6", environment_variables={"LICENCE": SECRET}, output_path="gs://renders/secrets"
    )
    seen: dict[str, bytes] = {}
    runners: set[int] = set()

    def read_logs() -> None:
        """Read all logs; a session's folder may be deleted meanwhile."""
        for folder, _, names in os.walk(farm.data):
            for name in names:
                path = Path(folder, name)
                if path.suffix == ".log" or "logs" in path.parts:
                    with contextlib.suppress(FileNotFoundError):
                        seen[str(path)] = path.read_bytes()

    def collect() -> bool:
        """Collect argument lists, environments and logs. The server itself is left out."""
        below = descendants(farm.process.pid)  # type: ignore[union-attr]
        for pid in below:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                seen[f"{pid} cmdline"] = command
                if b"framefarm.node.runner" in command:
                    runners.add(pid)
                if Path(f"/proc/{pid}").stat().st_uid == os.geteuid():
                    seen[f"{pid} environ {command[:60]!r}"] = Path(f"/proc/{pid}/environ").read_bytes()
        read_logs()
        return str(farm.job(job["id"])["status"]) in {"success", "failed"}

    farm.until(collect, "the job has ended")
    assert farm.job(job["id"])["status"] == "success"
    assert runners and any("bwrap" in name for name in seen), "no runner or sandbox was checked"
    read_logs()
    assert any(name.endswith("runner.log") for name in seen)

    with contextlib.closing(sqlite3.connect(farm.data / DATABASE)) as database:
        tokens = {row[0] for row in database.execute("SELECT token_hash FROM sessions")}
    keys = Keyring.open(farm.data / "secret.key")
    assert tokens
    for name, content in seen.items():
        assert SECRET.encode() not in content, name
        assert login not in content, name
        assert b"correct horse" not in content, name
        for word in WORD.findall(content):
            held = keys.digest("session", word.decode()) in tokens
            assert not held, f"{name} holds a session's token"
