"""Parts of a farm that fail and come back, each by its real cause; docs/operator.md has the table."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from running_farm import RunningFarm

sys.path.append(str(Path(__file__).parents[2] / "chaos"))
from proxy import CUTS, Cut, Proxy

pytestmark = pytest.mark.blender
MiB = 1 << 20


def submit_long_job(farm: RunningFarm, folder: str, frames: int = 12, **more: Any) -> dict[str, Any]:
    """Submit a job of one task on a slot of two cores, and wait until two frames are done."""
    defaults = {
        "frame_range": f"1-{frames}",
        "chunk_size": frames,
        "instance_type": "local-2",
        "samples": 400,
    }
    job = farm.submit(output_path=f"gs://renders/{folder}", **(defaults | more))
    farm.until(lambda: len(farm.done(job["id"])) >= 2, "two frames are done")
    return job


def assert_whole(farm: RunningFarm, job: dict[str, Any], frames: int = 12) -> list[dict[str, Any]]:
    """The job ends with every frame committed once and delivered. Returns its attempts."""
    farm.wait(job["id"], "success")
    found = farm.all(f"/api/jobs/{job['id']}/frames")
    assert [(f["frame"], f["status"], f["revision"]) for f in found] == [
        (n, "done", 0) for n in range(1, frames + 1)
    ]
    folder = farm.data / "buckets/renders" / job["output_path"].removeprefix("gs://renders/")
    assert len(list(folder.iterdir())) == frames
    return farm.all(f"/api/jobs/{job['id']}/attempts")


def lost_sessions(farm: RunningFarm) -> int:
    found = re.search(r'framefarm_sessions{state="lost"} (\d+)', farm.client.get("/metrics").text)
    return int(found[1]) if found else 0


def all_ended(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


# ----------------------------------------------------------------------------- the server


def test_server_frozen_interrupts_no_render(farm: RunningFarm) -> None:
    job = submit_long_job(farm, "thawed")
    folder = farm.data / "buckets/renders/thawed"
    staged = farm.data / "store/staging"
    assert farm.process is not None

    def files() -> int:
        return sum(p.is_file() for p in staged.rglob("*")) + sum(1 for _ in folder.iterdir())

    before = files()
    farm.process.send_signal(signal.SIGSTOP)
    try:
        farm.until(lambda: files() > before + 1, "frames are rendered meanwhile")
    finally:
        farm.process.send_signal(signal.SIGCONT)
    (attempt,) = assert_whole(farm, job)
    assert (attempt["outcome"], attempt["frames_done"]) == ("success", 12)


@pytest.fixture
def short_disconnect(tmp_path: Path, scene: bytes) -> Iterator[RunningFarm]:
    """A farm whose runners work without the server for three seconds only."""
    farm = RunningFarm(tmp_path / "farm", disconnected_seconds="3")
    farm.data.mkdir()
    farm.open(scene)
    yield farm
    farm.stop()


@pytest.mark.long
def test_server_away_longer_than_runners_work_alone_ends_them_and_a_start_goes_on(
    short_disconnect: RunningFarm,
) -> None:
    farm = short_disconnect
    job = submit_long_job(farm, "away", frames=24, samples=2000)
    done = len(farm.done(job["id"]))
    alive = farm.processes()
    assert len(alive) >= 2, "a runner and its Blender"
    farm.kill()
    farm.until(lambda: all_ended(alive), "runner and Blender have ended by themselves")
    farm.start()
    assert len(farm.done(job["id"])) >= done
    attempts = assert_whole(farm, job, frames=24)
    assert [a["outcome"] for a in attempts].count("success") == 1
    assert all(a["billed_seconds"] == 0 for a in attempts if a["outcome"] == "lost")


def test_secret_key_lost_ends_logins_and_sessions_and_no_job(short_disconnect: RunningFarm) -> None:
    farm = short_disconnect
    job = submit_long_job(farm, "secret")
    alive = farm.processes()
    farm.kill()
    (farm.data / "secret.key").unlink()
    farm.start()
    assert farm.client.get(f"/api/jobs/{job['id']}").status_code == 401
    farm.until(lambda: all_ended(alive), "the runners of before have ended")
    farm.login()
    attempts = assert_whole(farm, job)
    assert len({a["session"] for a in attempts}) == 2


# ---------------------------------------------------------------------------- the machine


def test_whole_machine_down_loses_the_frames_in_work_and_no_other(farm: RunningFarm) -> None:
    job = submit_long_job(farm, "dark")
    alive = farm.processes()
    assert farm.process is not None
    farm.process.send_signal(signal.SIGKILL)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    farm.process.wait()
    farm.start()
    done = farm.all(f"/api/jobs/{job['id']}/frames")
    kept = {f["frame"]: f["attempt"] for f in done if f["status"] == "done"}
    assert len(kept) >= 2
    attempts = assert_whole(farm, job)
    assert [a["outcome"] for a in attempts] == ["lost", "success"]
    assert attempts[0]["billed_seconds"] == 0
    after = {f["frame"]: f["attempt"] for f in farm.all(f"/api/jobs/{job['id']}/frames")}
    assert {n: after[n] for n in kept} == kept, "acknowledged frames are not rendered again"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, scene: bytes) -> Iterator[tuple[RunningFarm, Proxy]]:
    """A farm whose runners reach it through a proxy only; its client goes there directly."""
    farm, proxy = RunningFarm(tmp_path_factory.mktemp("farm")), Proxy()
    farm.open(scene)
    address = httpx2.URL((farm.data / "endpoint").read_text().strip())
    proxy.target = (address.host, address.port or 80)
    new_endpoint = farm.data / "endpoint.proxy"
    new_endpoint.write_text(proxy.address)
    new_endpoint.replace(farm.data / "endpoint")
    yield farm, proxy
    proxy.close()
    farm.stop()


@pytest.mark.parametrize("how", CUTS)
def test_machine_cut_off_and_back_loses_nothing(network: tuple[RunningFarm, Proxy], how: Cut) -> None:
    farm, proxy = network
    job = submit_long_job(farm, how, max_sessions=1, samples=1000)
    proxy.cut(how)
    try:
        farm.until(lambda: lost_sessions(farm) == 1, "the farm notices")
        assert farm.job(job["id"])["status"] in {"running", "pending"}
    finally:
        proxy.mend()
    (attempt,) = assert_whole(farm, job)
    assert (attempt["outcome"], attempt["frames_done"]) == ("success", 12)


# ------------------------------------------------------------------------------- its disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "framefarm-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk_farm(small_disk: Path, scene: bytes) -> Iterator[RunningFarm]:
    farm = RunningFarm(small_disk / "farm", free_disk_floor_bytes=str(MiB), idle_seconds="2")
    farm.data.mkdir()
    farm.open(scene)
    yield farm
    farm.stop()


def fill(folder: Path) -> Path:
    """Fill the disk to the last byte, with a file that is not the farm's. Returns its path."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    with open(ballast, "wb") as file, contextlib.suppress(OSError):  # other files grow meanwhile
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def test_data_disk_full_refuses_what_it_cannot_keep_and_goes_on_with_room(
    small_disk_farm: RunningFarm, small_disk: Path
) -> None:
    farm = small_disk_farm
    job = submit_long_job(farm, "small_disk_farm", samples=2000)
    path = f"/api/jobs/{job['id']}"
    kept = {f["frame"]: f["attempt"] for f in farm.all(f"{path}/frames") if f["status"] == "done"}
    priorities = itertools.cycle(range(101))
    acknowledged = 50

    def refused() -> httpx2.Response | None:
        """The refusal of a change. Changes are still accepted while the database's files have room."""
        nonlocal acknowledged
        priority = next(priorities)
        answer = farm.client.patch(path, json={"priority": priority})
        if answer.status_code == 200:
            acknowledged = priority
            return None
        return answer

    ballast = fill(small_disk)
    try:
        answer = farm.until(refused, "a change is refused")
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert farm.job(job["id"])["priority"] == acknowledged, (
            "the job can be read, and has the acknowledged priority"
        )
        assert farm.client.get("/healthz").status_code == 200
    finally:
        ballast.unlink()
    farm.until(lambda: refused() is None, "with room changes are taken again")
    attempts = assert_whole(farm, job)
    after = {f["frame"]: f["attempt"] for f in farm.all(f"{path}/frames")}
    assert {n: after[n] for n in kept} == kept
    assert {a["outcome"] for a in attempts} <= {"success", "failed", "lost"}
    assert all(a["billed_seconds"] == 0 for a in attempts if a["outcome"] == "lost")
