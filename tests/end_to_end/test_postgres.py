"""A running farm on PostgreSQL: renders, a killed server, and an exact bill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_farm import RunningFarm

from framefarm.core.money import cost_micros

pytestmark = [pytest.mark.blender, pytest.mark.long]


@pytest.fixture
def farm(tmp_path: Path, scene: bytes, postgres: Callable[[bool], str]) -> Iterator[RunningFarm]:
    farm = RunningFarm(tmp_path / "farm", database_url=postgres(False))
    farm.data.mkdir()
    farm.open(scene)
    yield farm
    farm.stop()


def test_a_job_with_scouts_outlives_a_killed_server_and_is_billed_exactly(farm: RunningFarm) -> None:
    job = farm.submit(frame_range="1-12", scout_frames="fml:3", chunk_size=2, samples=200)
    assert farm.wait(job["id"], "holding")["hold_reasons"] == ["scouts"]
    assert farm.done(job["id"]) == [1, 7, 12]
    farm.client.patch(f"/api/jobs/{job['id']}", json={"action": "unhold"})
    farm.until(lambda: len(farm.done(job["id"])) > 4, "the rest is being rendered")
    farm.kill()
    farm.start()
    done = farm.wait(job["id"], "success")
    assert farm.done(job["id"]) == list(range(1, 13))
    attempts = farm.all(f"/api/jobs/{job['id']}/attempts")
    assert {a["outcome"] for a in attempts} == {"success"}
    assert sum(a["frames_done"] for a in attempts) == 12
    costs = [
        cost_micros(round(a["billed_seconds"] * 1000), a["price_per_hour"]["amount_micros"]) for a in attempts
    ]
    assert sum(costs) == done["cost"]["amount_micros"] > 0
    ledger = farm.until(lambda: farm.all("/api/billing/transactions"), "the job is charged")
    balance = farm.client.get("/api/billing/current-period").json()["balance"]["amount_micros"]
    assert sum(t["amount"]["amount_micros"] for t in ledger) == balance == -sum(costs)
    assert not (farm.data / "framefarm.db").exists()
    assert len(list((farm.data / "buckets/renders/test").iterdir())) == 12
