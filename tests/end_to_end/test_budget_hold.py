"""Money with a real Blender: a job is held by its budget, shows its forecast, and goes on when it may."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from running_farm import SCENE, Farm

from framefarm.node.blender_installs import installed
from framefarm.server.operator import control_socket

DOLLAR = 1_000_000
FRAMES = 300
"""Of some 25 ms each where nothing else runs: more than three dollars on any machine."""


@pytest.fixture(scope="module")
def dear(farm: Farm) -> Farm:
    """A farm that takes a dollar a second."""
    price = {"instance": "local-1", "on_demand": "3600", "preemptible": "3600"}
    control_socket.run(farm.data, "price.set", price)
    return farm


@pytest.fixture(scope="module")
def endless(dear: Farm, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a scene whose frames take minutes."""
    folder = tmp_path_factory.mktemp("endless")
    once = "scene.cycles.samples = 1\n"
    assert once in SCENE
    slow = "scene.cycles.samples, scene.cycles.use_adaptive_sampling = 1_000_000, False\n"
    (folder / "make.py").write_text(SCENE.replace(once, slow))
    blender = next(b for b in installed() if b.id == "blender-4-2")
    program = [blender.path, folder / "make.py", folder / "endless.blend"]
    subprocess.run(program, check=True, capture_output=True)
    dear.upload("/show/endless.blend", (folder / "endless.blend").read_bytes())
    return "/show/endless.blend"


def set_budget(farm: Farm, **said: Any) -> str:
    answer = farm.client.post("/api/budgets", json=said)
    assert answer.status_code == 201, answer.text
    name: str = answer.json()["id"]
    return name


def cost(farm: Farm, job: str) -> int:
    return sum(a["cost"]["amount_micros"] for a in farm.all(f"/api/jobs/{job}/attempts"))


def idle(farm: Farm, budget: str) -> dict[str, Any]:
    """The budget once no session has money set aside any more."""

    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = farm.client.get(f"/api/budgets/{budget}").json()
        return seen if seen["reserved"]["amount_micros"] == 0 and seen["spent"]["amount_micros"] else None

    found: dict[str, Any] = farm.until(look, "what was set aside is back")
    return found


def test_a_job_is_held_by_its_budget_and_goes_on_when_it_is_raised(dear: Farm) -> None:
    job = dear.submit(frame_range=f"1-{FRAMES}", max_sessions=1, hold=True, output_path="gs://renders/drain")[
        "id"
    ]
    budget = set_budget(dear, job=job, amount_micros=3 * DOLLAR, mode="drain", warn_at=50)
    dear.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
    seen = dear.until(lambda: _held(dear, job), "its budget holds it")
    assert 2 <= seen["frames"]["done"] < FRAMES
    forecast = seen["forecast"]
    assert forecast["frames_left"] == FRAMES - seen["frames"]["done"]
    assert forecast["based_on_frames"] == seen["frames"]["done"]
    for name in ("seconds_left", "cost_left", "total_cost"):
        low, expected, high = (_number(forecast[name][n]) for n in ("low", "expected", "high"))
        assert low <= expected <= high
    answer = dear.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
    assert answer.status_code == 409 and "raise or remove the budget" in answer.json()["detail"]
    stood = idle(dear, budget)
    spent = stood["spent"]["amount_micros"]
    assert spent == cost(dear, job)
    frame = max(f["seconds"] or 0 for f in dear.all(f"/api/jobs/{job}/frames"))
    assert spent <= 3 * DOLLAR + round((frame + 5) * DOLLAR), "the frame in work, and no more"
    dear.client.patch(f"/api/budgets/{budget}", json={"amount_micros": 1000 * DOLLAR})
    done = dear.wait(job, "success")
    assert done["frames"]["done"] == FRAMES and done["forecast"] is None
    assert idle(dear, budget)["spent"]["amount_micros"] == cost(dear, job) == done["cost"]["amount_micros"]


@pytest.mark.long
def test_with_stop_the_limit_is_never_passed(dear: Farm, endless: str) -> None:
    job = dear.submit(
        frame_range="1-2", max_sessions=1, hold=True, upload_paths=[endless], output_path="gs://renders/stop"
    )["id"]
    budget = set_budget(dear, job=job, amount_micros=20 * DOLLAR, mode="stop")
    dear.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
    dear.until(lambda: _held(dear, job), "its budget holds it")
    stood = idle(dear, budget)
    assert 5 * DOLLAR < stood["spent"]["amount_micros"] == cost(dear, job) <= 20 * DOLLAR
    dear.client.patch(f"/api/jobs/{job}", json={"action": "cancel"})
    dear.wait(job, "cancelled")


def _held(farm: Farm, job: str) -> dict[str, Any] | None:
    seen = farm.job(job)
    quiet = seen["hold_reasons"] == ["budget"] and not seen["tasks"]["running"]
    return seen if quiet else None


def _number(said: Any) -> float:
    return float(said["amount_micros"] if isinstance(said, dict) else said)
