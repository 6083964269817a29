"""A job with a real Blender is held by its budget, shows its forecast, and continues when allowed."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from running_farm import SCENE, RunningFarm

from framefarm.node.blender_installs import installed
from framefarm.server.operator import control_socket

DOLLAR = 1_000_000
FRAMES = 300
"""At about 25 ms each on an idle machine, they cost more than three dollars anywhere."""


@pytest.fixture(scope="module")
def costly_farm(farm: RunningFarm) -> RunningFarm:
    """A farm whose slots cost a dollar a second."""
    price = {"instance": "local-1", "on_demand": "3600", "preemptible": "3600"}
    control_socket.run(farm.data, "price.set", price)
    return farm


@pytest.fixture(scope="module")
def endless(costly_farm: RunningFarm, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a scene whose frames take minutes."""
    folder = tmp_path_factory.mktemp("endless")
    once = "scene.cycles.samples = 1\n"
    assert once in SCENE
    slow = "scene.cycles.samples, scene.cycles.use_adaptive_sampling = 1_000_000, False\n"
    (folder / "make.py").write_text(SCENE.replace(once, slow))
    blender = next(b for b in installed() if b.id == "blender-4-2")
    program = [blender.path, folder / "make.py", folder / "endless.blend"]
    subprocess.run(program, check=True, capture_output=True)
    costly_farm.upload("/show/endless.blend", (folder / "endless.blend").read_bytes())
    return "/show/endless.blend"


def set_budget(farm: RunningFarm, **fields: Any) -> str:
    answer = farm.client.post("/api/budgets", json=fields)
    assert answer.status_code == 201, answer.text
    name: str = answer.json()["id"]
    return name


def cost(farm: RunningFarm, job: str) -> int:
    return sum(a["cost"]["amount_micros"] for a in farm.all(f"/api/jobs/{job}/attempts"))


def idle(farm: RunningFarm, budget: str) -> dict[str, Any]:
    """The budget once no session has a reservation any more."""

    def settled() -> dict[str, Any] | None:
        seen: dict[str, Any] = farm.client.get(f"/api/budgets/{budget}").json()
        return seen if seen["reserved"]["amount_micros"] == 0 and seen["spent"]["amount_micros"] else None

    idle_budget: dict[str, Any] = farm.until(settled, "all reservations are released")
    return idle_budget


def test_a_job_is_held_by_its_budget_and_goes_on_when_it_is_raised(costly_farm: RunningFarm) -> None:
    job = costly_farm.submit(
        frame_range=f"1-{FRAMES}", max_sessions=1, hold=True, output_path="gs://renders/drain"
    )["id"]
    budget = set_budget(costly_farm, job=job, amount_micros=3 * DOLLAR, mode="drain", warn_at=50)
    costly_farm.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
    seen = costly_farm.until(lambda: _held(costly_farm, job), "its budget holds it")
    assert 2 <= seen["frames"]["done"] < FRAMES
    forecast = seen["forecast"]
    assert forecast["frames_left"] == FRAMES - seen["frames"]["done"]
    assert forecast["based_on_frames"] == seen["frames"]["done"]
    for name in ("seconds_left", "cost_left", "total_cost"):
        low, expected, high = (_number(forecast[name][n]) for n in ("low", "expected", "high"))
        assert low <= expected <= high
    answer = costly_farm.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
    assert answer.status_code == 409 and "raise or remove the budget" in answer.json()["detail"]
    idle_budget = idle(costly_farm, budget)
    spent = idle_budget["spent"]["amount_micros"]
    assert spent == cost(costly_farm, job)
    frame = max(f["seconds"] or 0 for f in costly_farm.all(f"/api/jobs/{job}/frames"))
    assert spent <= 3 * DOLLAR + round((frame + 5) * DOLLAR), "at most the frame in work above the limit"
    costly_farm.client.patch(f"/api/budgets/{budget}", json={"amount_micros": 1000 * DOLLAR})
    done = costly_farm.wait(job, "success")
    assert done["frames"]["done"] == FRAMES and done["forecast"] is None
    assert (
        idle(costly_farm, budget)["spent"]["amount_micros"]
        == cost(costly_farm, job)
        == done["cost"]["amount_micros"]
    )


@pytest.mark.long
def test_with_stop_the_limit_is_never_passed(costly_farm: RunningFarm, endless: str) -> None:
    job = costly_farm.submit(
        frame_range="1-2", max_sessions=1, hold=True, upload_paths=[endless], output_path="gs://renders/stop"
    )["id"]
    budget = set_budget(costly_farm, job=job, amount_micros=20 * DOLLAR, mode="stop")
    costly_farm.client.patch(f"/api/jobs/{job}", json={"action": "unhold"})
    costly_farm.until(lambda: _held(costly_farm, job), "its budget holds it")
    idle_budget = idle(costly_farm, budget)
    assert 5 * DOLLAR < idle_budget["spent"]["amount_micros"] == cost(costly_farm, job) <= 20 * DOLLAR
    costly_farm.client.patch(f"/api/jobs/{job}", json={"action": "cancel"})
    costly_farm.wait(job, "cancelled")


def _held(farm: RunningFarm, job: str) -> dict[str, Any] | None:
    seen = farm.job(job)
    quiet = seen["hold_reasons"] == ["budget"] and not seen["tasks"]["running"]
    return seen if quiet else None


def _number(value: Any) -> float:
    return float(value["amount_micros"] if isinstance(value, dict) else value)
