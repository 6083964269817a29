"""A runner that is frozen past its lease and continues later."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal

import pytest
from running_farm import RunningFarm

from framefarm.core.money import cost_micros

pytestmark = pytest.mark.blender


def lost_sessions(farm: RunningFarm) -> int:
    found = re.search(r'framefarm_sessions{state="lost"} (\d+)', farm.client.get("/metrics").text)
    return int(found[1]) if found else 0


def runners(farm: RunningFarm) -> dict[str, int]:
    """Session → process id of its runner."""
    return {
        p.parent.name: json.loads(p.read_text())["pid"]
        for p in (farm.data / "sessions").glob("*/runner.json")
        if not (p.parent / "ended.json").exists()
    }


def assert_exact_bill(farm: RunningFarm, job_id: str) -> None:
    attempts = farm.all(f"/api/jobs/{job_id}/attempts")
    assert all(a["billed_seconds"] == 0 for a in attempts if a["outcome"] == "lost")
    costs = [
        cost_micros(round(a["billed_seconds"] * 1000), a["price_per_hour"]["amount_micros"]) for a in attempts
    ]
    assert sum(costs) == farm.job(job_id)["cost"]["amount_micros"]
    charges = [t for t in farm.all("/api/billing/transactions") if t.get("job") == job_id]
    assert not charges or sum(-t["amount"]["amount_micros"] for t in charges) == sum(costs)


def test_runner_frozen_and_not_replaced_goes_on_where_it_was(farm: RunningFarm) -> None:
    job = farm.submit(
        frame_range="1-8",
        chunk_size=8,
        samples=400,
        instance_type="local-2",
        output_path="gs://renders/frozen",
    )
    farm.until(lambda: len(farm.done(job["id"])) >= 2, "two frames are done")
    ((session, pid),) = runners(farm).items()
    os.kill(pid, signal.SIGSTOP)
    try:
        farm.until(lambda: lost_sessions(farm) == 1, "the session is lost")
        assert farm.job(job["id"])["status"] in {"running", "pending"}
    finally:
        os.kill(pid, signal.SIGCONT)
    farm.wait(job["id"], "success")
    (attempt,) = farm.all(f"/api/jobs/{job['id']}/attempts")
    assert (attempt["session"], attempt["outcome"], attempt["frames_done"]) == (session, "success", 8)
    assert_exact_bill(farm, job["id"])


def test_runner_frozen_and_replaced_commits_nothing_twice_and_ends(farm: RunningFarm) -> None:
    job = farm.submit(
        frame_range="1-24",
        chunk_size=3,
        samples=400,
        instance_type="local-1",
        output_path="gs://renders/thaw",
    )
    farm.until(
        lambda: len({a["session"] for a in farm.all(f"/api/jobs/{job['id']}/attempts")}) == 2, "two machines"
    )
    frozen, pid = next(iter(runners(farm).items()))
    farm.until(
        lambda: any(
            a["session"] == frozen and a["outcome"] is None and a["started_at"]
            for a in farm.all(f"/api/jobs/{job['id']}/attempts")
        ),
        "it renders",
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        farm.wait(job["id"], "success")
    finally:
        with contextlib.suppress(ProcessLookupError):  # it owned no task any more, so the farm has ended it
            os.kill(pid, signal.SIGCONT)
    farm.until(lambda: frozen not in runners(farm), "the frozen runner has ended")
    frames = farm.all(f"/api/jobs/{job['id']}/frames")
    assert [f["frame"] for f in frames] == list(range(1, 25))
    assert all(f["status"] == "done" and len(f["files"]) == 1 for f in frames)
    attempts = {a["id"]: a for a in farm.all(f"/api/jobs/{job['id']}/attempts")}
    assert all(attempts[f["attempt"]]["outcome"] in {"success", "lost"} for f in frames)
    assert any(a["session"] == frozen and a["outcome"] == "lost" for a in attempts.values())
    assert_exact_bill(farm, job["id"])
