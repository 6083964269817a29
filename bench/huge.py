"""Times of API calls on a job of 1,000,000 frames and on one of 1,000, and of submitting 10,000 paths."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from typing import Any

from harness import HERE, BenchFarm, bench_farm, row


def run(options: argparse.Namespace) -> None:
    with bench_farm() as farm:
        farm.register("blender-9-9", "executable", str(HERE / "fake/fake_instant_blender.py"), "9.9.0")
        for frames in (1000, 1_000_000):
            times: dict[str, list[float]] = {}
            for turn in range(options.turns or 7):
                _actions(farm, frames, turn, times)
            for name, values in times.items():
                row(f"{name}, {frames:,} frames", values, "ms", "goal 50" if frames > 1000 else "")
        paths = ["/bench/scene.blend", *(f"/bench/many/{i:05d}.png" for i in range(9_999))]
        _submits(farm, "submit, 10,000 paths, missing", paths, {})
        _submits(farm, "submit, 10,000 paths, uploaded and pinned", paths, _register(farm, paths))


def _register(farm: BenchFarm, paths: list[str]) -> dict[str, str]:
    """Upload a hundred contents and register each path with one of them. Returns path → SHA-256."""
    for i in range(100):
        farm.upload(f"/bench/contents/{i}.png", b"%d" % i)
    contents = [b"%d" % (i % 100) for i in range(len(paths))]
    for start in range(0, len(paths), 1000):
        files = [
            {"path": path, "md5": hashlib.md5(content).hexdigest()}
            for path, content in zip(paths[start : start + 1000], contents[start : start + 1000], strict=True)
        ]
        farm.client.post("/api/uploads/md5", json={"files": files}).raise_for_status()
    return {p: hashlib.sha256(c).hexdigest() for p, c in zip(paths, contents, strict=True)}


def _submits(farm: BenchFarm, name: str, paths: list[str], pins: dict[str, str]) -> None:
    values = []
    for turn in range(5):
        begun = time.perf_counter()
        farm.submit(
            frame_range="1", blender_version="blender-9-9", output_path=f"{len(pins)}/{turn}", hold=True,
            upload_paths=paths, upload_sha256s=pins,
        )  # fmt: skip
        values.append((time.perf_counter() - begun) * 1000)
    row(name, values, "ms", "goal 300")


def _actions(farm: BenchFarm, frames: int, turn: int, times: dict[str, list[float]]) -> None:
    def timed(name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        times.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
        return result

    def patch(action: str) -> None:
        farm.client.patch(f"/api/jobs/{job}", json={"action": action}).raise_for_status()

    job = timed(
        "submit",
        lambda: farm.submit(
            frame_range=f"1-{frames}", blender_version="blender-9-9", output_path=f"h/{frames}/{turn}"
        ),
    )
    timed("hold", lambda: patch("hold"))
    timed("unhold", lambda: patch("unhold"))
    timed("list jobs", lambda: farm.client.get("/api/jobs").raise_for_status())
    timed("list frames", lambda: farm.client.get(f"/api/jobs/{job}/frames").raise_for_status())
    timed("cancel", lambda: patch("cancel"))
