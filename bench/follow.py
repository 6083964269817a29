"""Frame saved → its event at each of 100 clients of the job's stream. Called by `run.py follow`.

A frame's moment is the time of change of the file that the runner took from Blender, which publishing keeps;
clients and farm share one machine and one clock.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

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
