"""A hostile scene whose scripts are allowed gets no secret and harms neither the farm nor its neighbour."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from running_farm import FRAMEFARM, RunningFarm

from framefarm.node.blender_installs import installed

pytestmark = pytest.mark.blender
SECRET = "only root may read this"
EVIL = {"email": "evil@elsewhere.example", "password": "a long enough password"}
FRAMES = 200


@pytest.fixture(scope="module")
def evil(farm: RunningFarm) -> Iterator[httpx2.Client]:
    """A member of another account, whose scripts the operator allows."""
    admin = [FRAMEFARM, "admin"]
    add = ["user", "add", "--account", "Elsewhere", "--create-account", "--role", "member"]
    login = ["--email", EVIL["email"], "--password", EVIL["password"], "--data", str(farm.data)]
    allow = ["account", "set", "--data", str(farm.data), "--account", "Elsewhere", "--allow-scripts", "yes"]
    subprocess.run([*admin, *add, *login], check=True, capture_output=True)
    subprocess.run([*admin, *allow], check=True, capture_output=True)
    with httpx2.Client(base_url=farm.client.base_url, timeout=30) as client:
        token = client.post("/api/auth/login", json=EVIL).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


@pytest.fixture(scope="module")
def secret() -> Iterator[Path]:
    """A file that only root may read, in a folder that all users may enter."""
    with tempfile.NamedTemporaryFile("w", dir="/var/tmp", suffix=".txt") as file:
        file.write(SECRET)
        file.flush()
        yield Path(file.name)


@pytest.fixture(scope="module")
def neighbour(farm: RunningFarm) -> dict[str, Any]:
    """A job of another account that renders meanwhile on the other slot."""
    return farm.submit(
        frame_range=f"1-{FRAMES}", output_path="gs://renders/neighbour", max_sessions=1, preemptible=False
    )


def submit_attack(
    farm: RunningFarm, evil: httpx2.Client, scene: bytes, secret: Path, folder: Path, attack: str
) -> str:
    """Submit a job of two frames with this attack in its scene. Returns its id."""
    blender = next(b for b in installed() if b.id == "blender-4-2")
    (folder / "in.blend").write_bytes(scene)
    port = urlsplit(str(farm.client.base_url)).port
    runner = next((farm.data / "sessions").iterdir(), farm.data)
    program = Path(__file__).with_name("hostile_scene.py")
    arguments = [folder / "in.blend", attack, secret, runner, str(port), folder / "evil.blend"]
    subprocess.run([blender.path, program, *arguments], check=True, capture_output=True, timeout=120)
    path = f"/evil/{attack}.blend"
    content = (folder / "evil.blend").read_bytes()
    sent = evil.post("/api/uploads/file", data={"path": path}, files={"file": ("f", content)})
    assert sent.status_code == 200, sent.text
    answer = evil.post(
        "/api/jobs",
        json={
            "job_title": attack, "project": "default", "instance_type": "local-1", "frame_range": "1-2",
            "chunk_size": 2, "blender_version": "4.2", "output_path": attack, "upload_paths": [path],
            "task_retries": 0, "preemptible": False, "max_sessions": 1, "max_task_runtime_seconds": 30,
        },
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ended(farm: RunningFarm, evil: httpx2.Client, job: str) -> dict[str, Any]:
    def ended_job() -> dict[str, Any] | None:
        seen: dict[str, Any] = evil.get(f"/api/jobs/{job}").json()
        return seen if seen["status"] in {"success", "failed"} else None

    seen: dict[str, Any] = farm.until(ended_job, "the hostile job ends", 120)
    return seen


def blenders(farm: RunningFarm) -> int:
    count = 0
    for process in farm.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            count += process.uids().real >= 70000 and "in_blender" in " ".join(process.cmdline())
    return count


@pytest.mark.parametrize("attack", ["thief", "planter", "liar", "bomb"])
def test_a_hostile_scene_gets_no_secret_and_leaves_no_process(
    farm: RunningFarm, evil: httpx2.Client, scene: bytes, secret: Path, tmp_path: Path, attack: str,
    neighbour: dict[str, Any],
) -> None:  # fmt: skip
    farm.until(lambda: farm.job(neighbour["id"])["frames"]["done"], "the neighbour renders")
    job = submit_attack(farm, evil, scene, secret, tmp_path, attack)
    found = ended(farm, evil, job)
    frames = evil.get(f"/api/jobs/{job}/frames").json()["data"]
    log = evil.get(f"/api/jobs/{job}/tasks/0/log").text
    assert SECRET not in log
    if attack == "thief":
        loot = [json.loads(line.split("LOOT ", 1)[1]) for line in log.splitlines() if "LOOT " in line]
        assert [name for name, got, *_ in loot if got is not None] == ["done"], loot
        assert found["status"] == "success"
    if attack == "liar":
        assert [(f["frame"], f["status"]) for f in frames] == [(1, "failed"), (2, "failed")]
        assert found["cause"] in {"bad_report", "no_picture"}
    if attack == "planter":
        assert found["cause"] == "bad_output", found["message"]
    for file in evil.get(f"/api/jobs/{job}/files").json()["data"]:
        content = evil.get(file["url"], headers={"Authorization": ""}).content
        assert content.startswith(b"\x89PNG"), file["path"]
    farm.until(lambda: blenders(farm) <= 1, "only the neighbour's Blender runs")


def test_the_neighbour_of_hostile_scenes_rendered_every_frame_once(
    farm: RunningFarm, neighbour: dict[str, Any]
) -> None:
    done = farm.wait(neighbour["id"], "success")
    assert done["frames"]["done"] == FRAMES
    attempts = farm.all(f"/api/jobs/{neighbour['id']}/attempts")
    assert {a["outcome"] for a in attempts} == {"success"}
    assert sum(a["frames_done"] for a in attempts) == FRAMES
