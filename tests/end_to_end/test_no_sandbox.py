"""A farm with the sandbox switched off, as on a machine without bubblewrap."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from running_farm import RunningFarm

pytestmark = [
    pytest.mark.blender,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="Blender gets a user of its own from root only"),
]


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that Blender's user may enter, unlike pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="framefarm-test-") as folder:
        yield Path(folder)


def test_no_sandbox_is_a_warning_and_a_farm_that_renders(data: Path, scene: bytes) -> None:
    farm = RunningFarm(data, sandbox="none")
    try:
        farm.open(scene)
        job = farm.submit(frame_range="1-200")
        assert [w["code"] for w in job["warnings"]] == ["no_sandbox"]
        farm.until(lambda: farm.done(job["id"]), "a frame is done")
        theirs = [p for p in farm.processes() if "in_blender/main.py" in " ".join(p.cmdline())]
        users = [p.uids().real for p in theirs]
        assert users and all(user in range(70_000, 80_000) for user in users)
        assert not any(p.name() == "bwrap" for p in farm.processes())
        for entry in data.iterdir():
            open_to_all = stat.S_IMODE(entry.stat().st_mode) & 0o077
            assert open_to_all == {"sessions": 0o011, "endpoint": 0o044}.get(entry.name, 0)
        assert stat.S_IMODE(data.stat().st_mode) == 0o711
        farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "cancel"}).raise_for_status()
        farm.until(lambda: farm.job(job["id"])["status"] == "cancelled", "it is cancelled")
        _, remaining = psutil.wait_procs(theirs, timeout=20)
        assert remaining == []
    finally:
        farm.stop()
