"""On-demand work beside preemptible work on two slots, with a real Blender."""

from __future__ import annotations

import time

import pytest
from running_farm import RunningFarm

pytestmark = pytest.mark.blender


def test_a_preemptible_job_gives_way_comes_back_and_both_finish(farm: RunningFarm) -> None:
    spot = farm.submit(frame_range="1-24", samples=400, preemptible=True, output_path="gs://renders/spot")
    path = f"/api/jobs/{spot['id']}"
    farm.until(lambda: len({a["session"] for a in farm.all(f"{path}/attempts")}) == 2, "it has two sessions")
    farm.until(lambda: len(farm.done(spot["id"])) >= 2, "two frames are done")
    rush = farm.submit(frame_range="1-2", preemptible=False, output_path="gs://renders/rush")
    asked = time.monotonic()
    farm.until(lambda: farm.all(f"/api/jobs/{rush['id']}/attempts"), "it has a session", 5 + 30)
    assert time.monotonic() - asked < 5 + 30
    farm.wait(rush["id"], "success")
    farm.wait(spot["id"], "success")
    attempts = farm.all(f"{path}/attempts")
    assert {a["outcome"] for a in attempts} <= {"success", "preempted"}
    assert len({a["session"] for a in attempts}) > 2
    assert farm.done(spot["id"]) == list(range(1, 25))
    frames = farm.all(f"{path}/frames")
    assert all(len(f["files"]) == 1 and f["revision"] == 0 for f in frames)


def test_a_task_that_takes_too_long_is_ended_with_its_reason_and_billed(farm: RunningFarm) -> None:
    job = farm.submit(
        frame_range="1-400", chunk_size=400, samples=400, max_task_runtime_seconds=3, task_retries=0,
        output_path="gs://renders/long",
    )  # fmt: skip
    failed = farm.wait(job["id"], "failed")
    assert failed["cause"] == "task_timed_out"
    (attempt,) = farm.all(f"/api/jobs/{job['id']}/attempts")
    assert attempt["outcome"] == "timed_out"
    assert attempt["billed_seconds"] >= 3
    assert 0 < len(farm.done(job["id"])) < 400
