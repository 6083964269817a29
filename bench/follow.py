"""Frame saved → its event at each of 100 clients of the job's stream.

A frame's moment is the time of change of the file that the runner took from Blender, which publishing keeps;
clients and farm share one machine and one clock. The stand-in opens its scene in half a second, as
Blender does with a small one (`sandbox` shows it); the picture decoder of the session starts meanwhile.
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
from harness import HERE, a_farm, a_scene, row

CLIENTS = 100


async def _client(url: str, token: str, job: str, frames: int, seen: dict[int, list[float]]) -> None:
    """Read a stream until it has told of every frame; note when each came."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 20)
    writer.write(
        f"GET /api/jobs/{job}/events HTTP/1.1\r\nHost: farm\r\nAuthorization: {token}\r\n\r\n".encode()
    )
    left = frames
    while left:
        line = await reader.readline()
        if not line:
            raise SystemExit("a stream ended early")
        if line.startswith(b"data: ") and b'"frame.done"' in line:
            now = time.time()
            seen.setdefault(json.loads(line[6:])["data"]["frame"], []).append(now)
            left -= 1
    writer.close()


def delays_ms(
    url: str, token: str, job: str, frames: int, folder: Path, go: Callable[[], None]
) -> list[float]:
    """Milliseconds from each frame's file to each client, sorted. `go` starts the job once all listen."""
    seen: dict[int, list[float]] = {}

    async def follow() -> None:
        clients = [asyncio.create_task(_client(url, token, job, frames, seen)) for _ in range(CLIENTS)]
        await asyncio.sleep(2)
        await asyncio.to_thread(go)
        await asyncio.gather(*clients)

    asyncio.run(follow())
    saved = {}
    deadline = time.monotonic() + 60
    while len(saved) < frames and time.monotonic() < deadline:
        for path in folder.glob("*.png"):
            if found := re.search(r"_(\d+)\.png$", path.name):
                saved[int(found[1])] = path.stat().st_mtime
        time.sleep(0.05)
    return sorted((at - saved[frame]) * 1000 for frame, times in seen.items() for at in times)


def run(options: argparse.Namespace) -> None:
    frames = 200
    with a_farm() as farm:
        a_scene(farm.data / "scene.blend")
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
            found = delays_ms(str(farm.client.base_url), token, job, frames, folder, go)
            after = process.cpu_times()
            spent = after.user + after.system - before.user - before.system
            cpu.append(spent / (time.perf_counter() - begun) * 100)
            median.append(statistics.median(found))
            late.append(found[int(len(found) * 0.99)])
            worst.append(found[-1])
    row(f"frame saved to client, {CLIENTS} clients, median", median, "ms")
    row("99th percentile", late, "ms", "goal 100")
    row("worst", worst, "ms")
    row("the server's processor meanwhile", cpu, "% core", "20 frames a second in all")
