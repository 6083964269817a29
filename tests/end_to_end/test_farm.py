"""Jobs from submission to finished, billed frames, with a server or a runner killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import psutil
import pytest
from running_farm import RunningFarm

from framefarm.core.money import cost_micros

pytestmark = pytest.mark.blender


def test_a_stepped_range_renders_exactly_its_frames_and_is_billed_exactly(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-20x3", chunk_size=3, output_path="gs://renders/step")
    done = farm.wait(job["id"], "success")
    assert farm.done(job["id"]) == [1, 4, 7, 10, 13, 16, 19]
    files = farm.all(f"/api/jobs/{job['id']}/files")
    assert sorted(f["path"] for f in files) == [f"monkey_{n:04d}.png" for n in (1, 4, 7, 10, 13, 16, 19)]
    pictures = {farm.client.get(f["url"], headers={"Authorization": ""}).content for f in files}
    assert len(pictures) == 7
    assert all(p.startswith(b"\x89PNG") for p in pictures)
    delivered = {p.name for p in (farm.data / "buckets/renders/step").iterdir()}
    assert delivered == {f["path"] for f in files}
    costs = [
        cost_micros(round(a["billed_seconds"] * 1000), a["price_per_hour"]["amount_micros"])
        for a in farm.all(f"/api/jobs/{job['id']}/attempts")
    ]
    assert sum(costs) == done["cost"]["amount_micros"] > 0
    ledger = farm.all("/api/billing/transactions")
    balance = farm.client.get("/api/billing/current-period").json()["balance"]["amount_micros"]
    assert sum(t["amount"]["amount_micros"] for t in ledger) == balance < 0


def test_scouts_come_first_and_the_rest_waits_for_a_person(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-9", scout_frames="fml:3", output_path="gs://renders/scouts")
    held = farm.wait(job["id"], "holding")
    assert held["hold_reasons"] == ["scouts"]
    assert farm.done(job["id"]) == [1, 5, 9]
    assert farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "unhold"}).status_code == 200
    farm.wait(job["id"], "success")
    frames = [f["attempt"] for f in farm.all(f"/api/jobs/{job['id']}/frames")]
    assert len(set(frames)) == 9
    assert all(a["outcome"] == "success" for a in farm.all(f"/api/jobs/{job['id']}/attempts"))


def test_fml_takes_first_middle_and_last_of_the_scenes_own_range(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="fml:3", output_path="gs://renders/fml")
    farm.wait(job["id"], "success")
    assert farm.done(job["id"]) == [1, 13, 24]


def test_a_job_without_its_files_waits_for_them(farm: RunningFarm, scene: bytes) -> None:
    job = farm.submit(upload_paths=["/late/monkey.blend"], output_path="gs://renders/late", frame_range="1")
    assert (job["status"], job["missing_paths"]) == ("syncing", ["/late/monkey.blend"])
    farm.upload("/late/monkey.blend", scene)
    farm.wait(job["id"], "success")


def test_a_corrupt_scene_fails_with_a_sentence_before_any_machine(farm: RunningFarm) -> None:
    farm.upload("/bad/scene.blend", b"BLENDER-v402 and nothing more")
    job = farm.submit(upload_paths=["/bad/scene.blend"], output_path="gs://renders/bad")
    failed = farm.wait(job["id"], "failed")
    assert failed["cause"] == "unreadable_scene"
    assert failed["message"]
    assert farm.all(f"/api/jobs/{job['id']}/attempts") == []


def test_cancel_stops_at_once_and_leaves_a_deletable_job(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-200", output_path="gs://renders/cancel")
    farm.until(lambda: farm.done(job["id"]), "a frame is done")
    path = f"/api/jobs/{job['id']}"
    assert farm.client.delete(path).status_code == 409
    assert farm.client.patch(path, json={"action": "cancel"}).status_code == 200
    farm.wait(job["id"], "cancelled")
    assert farm.client.patch(path, json={"action": "cancel"}).status_code == 200
    assert farm.client.delete(path).status_code == 204
    assert farm.client.get(path).status_code == 404


def test_server_killed_stops_no_render_and_repeats_no_frame(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-24", output_path="gs://renders/kill", samples=400)
    farm.until(lambda: len(farm.done(job["id"])) >= 2, "two frames are done")
    farm.kill()
    farm.start()
    farm.wait(job["id"], "success")
    attempts = farm.all(f"/api/jobs/{job['id']}/attempts")
    assert [a["outcome"] for a in attempts] == ["success"] * 24
    assert len({a["session"] for a in attempts}) <= 2


def test_runner_killed_costs_at_most_its_frame_in_work(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-16", output_path="gs://renders/runner", samples=400)
    farm.until(lambda: len(farm.done(job["id"])) >= 2, "two frames are done")
    runners: list[dict[str, Any]] = [
        json.loads(p.read_text()) for p in (farm.data / "sessions").glob("*/runner.json")
    ]
    os.kill(runners[0]["pid"], signal.SIGKILL)
    farm.wait(job["id"], "success")
    attempts = farm.all(f"/api/jobs/{job['id']}/attempts")
    lost = [a for a in attempts if a["outcome"] == "lost"]
    assert len(lost) <= 1
    assert all(a["billed_seconds"] == 0 for a in lost)
    assert len([a for a in attempts if a["outcome"] == "success"]) == 16


def test_stopping_for_good_leaves_no_process(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-500", output_path="gs://renders/stop", samples=400)
    farm.until(lambda: farm.done(job["id"]), "a frame is done")
    alive = farm.processes()
    assert len(alive) >= 2, "a runner and its Blender"
    farm.stop()
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    farm.start()
    farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "cancel"})
