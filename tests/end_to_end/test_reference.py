"""A client written by the API reference alone: every call with exactly the documented fields."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2
import pytest
from running_farm import EMAIL, PASSWORD, RunningFarm

pytestmark = pytest.mark.blender
SCENE = "/home/artist/film/shot_010.blend"
TEXTURE = "/home/artist/film/textures/ground.png"


@pytest.fixture(scope="module")
def api(farm: RunningFarm) -> httpx2.Client:
    client = httpx2.Client(base_url=farm.client.base_url, timeout=30)
    login = client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
    assert login.status_code == 200
    client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
    return client


def submission(api: httpx2.Client, **more: Any) -> dict[str, Any]:
    """The payload of the reference, with each value taken from the source that the reference names."""
    project = api.get("/api/projects").json()["data"][0]["name"]
    instance = api.get("/api/enterprise/instances").json()["data"][0]["id"]
    packages = [p["id"] for p in api.get("/api/packages").json()["data"]]
    assert "blender-4-2" in packages
    return {
        "job_title": "Shot 010",
        "project": project,
        "instance_type": instance,
        "preemptible": True,
        "preemptible_retries": 1,
        "chunk_size": 2,
        "frame_range": "1-4",
        "scout_frames": "",
        "blender_version": "blender-4-2",
        "render_software": "cycles",
        "output_path": "gs://renders/film/shot_010",
        "upload_paths": [SCENE, TEXTURE],
        "environment_variables": {"MY_VAR": "value"},
    } | more


def upload(api: httpx2.Client, path: str, content: bytes) -> None:
    """Upload a file unless the farm has its content."""
    digest = hashlib.md5(content).hexdigest()
    asked = api.post("/api/uploads/md5", json={"md5": digest})
    assert asked.status_code == 200
    if asked.json()["exists"]:
        return
    sent = api.post("/api/uploads/file", data={"path": path}, files={"file": (path.split("/")[-1], content)})
    assert sent.status_code == 200, sent.text
    assert (sent.json()["md5"], sent.json()["size"]) == (digest, len(content))
    assert api.post("/api/uploads/md5", json={"md5": digest}).json()["exists"] is True


def test_from_the_login_to_the_bill(api: httpx2.Client, farm: RunningFarm, scene: bytes) -> None:
    upload(api, SCENE, scene + b"\0")
    upload(api, TEXTURE, b"\x89PNG of a kind")
    payload = submission(api)
    posted = api.post("/api/jobs", json=payload)
    assert posted.status_code == 201, posted.text
    job = posted.json()
    assert {name: job[name] for name in payload} == payload
    address = f"/api/jobs/{job['id']}"
    done = farm.wait(job["id"], "success")
    assert done["frames"] == {"total": 4, "done": 4, "left": 0}
    assert {name: done[name] for name in payload} == payload
    assert job["id"] in [j["id"] for j in api.get("/api/jobs").json()["data"]]

    frames = api.get(f"{address}/frames").json()["data"]
    assert [f["frame"] for f in frames] == [1, 2, 3, 4]
    pictures = set()
    for file in api.get(f"{address}/files").json()["data"]:
        content = httpx2.get(file["url"]).content
        assert len(content) == file["size"]
        assert hashlib.md5(content).hexdigest() == file["md5"]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        delivered = farm.data / "buckets/renders/film/shot_010" / file["path"]
        assert delivered.read_bytes() == content
        pictures.add(content)
    assert len(pictures) == 4

    attempts = api.get(f"{address}/attempts").json()["data"]
    cost = sum(a["cost"]["amount_micros"] for a in attempts)
    assert done["cost"] == {"amount_micros": cost, "currency": "USD"}
    assert {a["preemptible"] for a in attempts} == {True}
    instance = api.get("/api/enterprise/instances").json()["data"][0]
    assert {a["price_per_hour"]["amount_micros"] for a in attempts} == {
        instance["preemptible_price_per_hour"]["amount_micros"]
    }
    period = api.get("/api/billing/current-period").json()
    assert {"job": job["id"], "job_title": "Shot 010", "cost": done["cost"]} in period["by_job"]
    charged = farm.until(
        lambda: [t for t in api.get("/api/billing/transactions").json()["data"] if t["job"] == job["id"]],
        "the job is charged",
    )
    assert [(t["kind"], t["amount"]["amount_micros"]) for t in charged] == [("charge", -cost)]
    assert api.delete(address).status_code == 204
    assert api.get(address).status_code == 404
    assert delivered.exists(), "delivered frames are kept"


def test_a_job_is_held_unheld_moved_cancelled_and_deleted(
    api: httpx2.Client, farm: RunningFarm, scene: bytes
) -> None:
    upload(api, SCENE, scene + b"\0")
    posted = api.post(
        "/api/jobs", json=submission(api, frame_range="1-400", output_path="gs://renders/film/long")
    )
    address = f"/api/jobs/{posted.json()['id']}"
    assert api.patch(address, json={"action": "hold"}).json()["status"] == "holding"
    assert api.patch(address, json={"priority": 90}).json()["priority"] == 90
    assert api.patch(address, json={"action": "unhold"}).json()["status"] in {"pending", "running", "syncing"}
    assert api.delete(address).status_code == 409
    assert api.patch(address, json={"action": "cancel"}).json()["status"] in {"cancelled", "cancelling"}
    farm.until(lambda: api.delete(address).status_code == 204, "it is deleted")
    assert api.get(address).status_code == 404


def test_projects_are_made_archived_and_restored(api: httpx2.Client) -> None:
    made = api.post("/api/projects", json={"name": "Feature"})
    assert made.status_code == 201
    address = f"/api/projects/{made.json()['id']}"

    def active() -> set[str]:
        return {p["name"] for p in api.get("/api/projects").json()["data"]}

    assert active() >= {"default", "Feature"}
    assert api.patch(address, json={"status": "archived"}).json()["status"] == "archived"
    assert "Feature" not in active()
    assert api.post("/api/jobs", json=submission(api, project="Feature")).status_code == 409
    assert api.patch(address, json={"status": "active"}).json()["status"] == "active"
    assert "Feature" in active()


def test_every_call_without_a_token_is_a_401(farm: RunningFarm) -> None:
    for method, path in (
        ("GET", "/api/jobs"), ("GET", "/api/jobs/job_1"), ("POST", "/api/jobs"), ("PATCH", "/api/jobs/job_1"),
        ("DELETE", "/api/jobs/job_1"), ("GET", "/api/projects"), ("POST", "/api/projects"),
        ("PATCH", "/api/projects/prj_1"), ("GET", "/api/enterprise/instances"), ("GET", "/api/packages"),
        ("POST", "/api/uploads/md5"), ("POST", "/api/uploads/file"), ("GET", "/api/billing/current-period"),
        ("GET", "/api/billing/transactions"),
    ):  # fmt: skip
        answer = httpx2.request(method, f"{farm.client.base_url}{path}")
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
