"""Time from a saved frame to its event at each of 100 clients of the job's stream.

A frame is saved at the modification time of its file, which publishing keeps. All share one clock.
The stand-in for Blender opens its scene in half a second, as Blender does with a small one (see `sandbox`);
meanwhile the session's image decoder starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from harness import HERE, bench_farm, make_empty_scene, row

CLIENTS = 100


async def _client(url: str, token: str, job: str, frames: int, arrivals: dict[int, list[float]]) -> None:
    """Read a job's stream until every frame is done. Adds each frame's time of arrival to `arrivals`."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
    writer.write(
        f"GET /api/jobs/{job}/events HTTP/1.1\r\nHost: farm\r\nAuthorization: {token}\r\n\r\n".encode()
    )
    remaining = frames
    while remaining:
        line = await reader.readline()
        if not line:
            raise SystemExit("a stream ended early")
        if line.startswith(b"data: ") and b'"frame.done"' in line:
            now = time.time()
            arrivals.setdefault(json.loads(line[6:])["data"]["frame"], []).append(now)
            remaining -= 1
    writer.close()


def delays_ms(
    url: str, token: str, job: str, frames: int, folder: Path, go: Callable[[], None]
) -> list[float]:
    """Milliseconds from each frame's file to each client, sorted. `go` starts the job."""
    arrivals: dict[int, list[float]] = {}

    async def follow() -> None:
        clients = [asyncio.create_task(_client(url, token, job, frames, arrivals)) for _ in range(CLIENTS)]
        await asyncio.sleep(2)
        await asyncio.to_thread(go)
        await asyncio.gather(*clients)

    asyncio.run(follow())
    saved = {}
    deadline = time.monotonic() + 60
    while len(saved) < frames and time.monotonic() < deadline:
        for path in folder.glob("*.png"):
            if match := re.search(r"_(\d+)\.png$", path.name):
                saved[int(match[1])] = path.stat().st_mtime
        time.sleep(0.05)
    return sorted((at - saved[frame]) * 1000 for frame, times in arrivals.items() for at in times)


def run(options: argparse.Namespace) -> None:
    frames = 200
    with bench_farm() as farm:
        make_empty_scene(farm.data / "scene.blend")
        farm.upload("/bench/scene.blend", (farm.data / "scene.blend").read_bytes())
        farm.register("blender-9-9", "executable", str(HERE / "fake/fake_instant_blender.py"), "9.9.0")
        median, late, worst, cpu = [], [], [], []
        process = psutil.Process(farm.process.pid)
        for turn in range(options.turns or 3):
            job = farm.submit(
                frame_range=f"1-{frames}", blender_version="blender-9-9", output_path=f"gs://renders/{turn}",
                hold=True, environment_variables={"FAKE_FRAME_SECONDS": "0.1", "FAKE_OPEN_SECONDS": "0.5"},
            )  # fmt: skip

            def go(job: str = job) -> None:
                farm.client.patch(f"/api/jobs/{job}", json={"action": "unhold"}).raise_for_status()

            before, begun = process.cpu_times(), time.perf_counter()
            token = farm.client.headers["Authorization"]
            folder = farm.data / "buckets/renders" / str(turn)
            delays = delays_ms(str(farm.client.base_url), token, job, frames, folder, go)
            after = process.cpu_times()
            spent = after.user + after.system - before.user - before.system
            cpu.append(spent / (time.perf_counter() - begun) * 100)
            median.append(statistics.median(delays))
            late.append(delays[int(len(delays) * 0.99)])
            worst.append(delays[-1])
    row(f"frame saved to client, {CLIENTS} clients, median", median, "ms")
    row("99th percentile", late, "ms", "goal 100")
    row("worst", worst, "ms")
    row("the server's processor meanwhile", cpu, "% core", "at 20 frames a second in all")
