"""Time of a Blender with and without the sandbox, in 7 interleaved pairs.

Both are driven by the runner's own code on the same core, as the same unprivileged user: start, open the
scene, render, end. Other parts of the farm are not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import statistics
import tempfile
import time
from pathlib import Path

from harness import bench_scene, blender, row

from framefarm.node.blender import Blender, BlenderLimits, Opened, SceneOrder
from framefarm.node.blender_events import Event, Exited, Failed, Saved
from framefarm.node.inputs import lay_out
from framefarm.protocol.node import Input, Package, RenderSettings
from framefarm.sandboxing.bubblewrap import Mode

PAIRS, FRAMES = 7, 6
SCENE = "/bench/scene.blend"
MODES: tuple[Mode, Mode] = ("bubblewrap", "none")


def run(options: argparse.Namespace) -> None:
    times: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory(prefix="framefarm-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # without the sandbox, Blender's user passes through it
        scene = bench_scene(options, folder)
        for pair in range((options.turns or PAIRS) + 1):
            for mode in MODES if pair % 2 else reversed(MODES):
                work = folder / f"{pair}-{mode}"
                work.mkdir()
                seconds = _measure(work, scene, mode)
                if pair:  # the first pair only warms the disk's cache
                    times[mode].append(seconds)
    sandboxed, bare = (times[mode] for mode in MODES)
    row("start and open, in the sandbox", [a for a, _ in sandboxed], "s")
    row("start and open, without", [a for a, _ in bare], "s")
    row(f"{FRAMES} frames, in the sandbox", [b for _, b in sandboxed], "s")
    row(f"{FRAMES} frames, without", [b for _, b in bare], "s")
    ratios = [sum(a) / sum(b) for a, b in zip(sandboxed, bare, strict=True)]
    row("all, in the sandbox / without", ratios, "x", "goal: 1 within the spread")
    row(
        "frames, in the sandbox / without",
        [a / b for (_, a), (_, b) in zip(sandboxed, bare, strict=True)],
        "x",
    )
    middle = statistics.median(ratios)
    within = "within" if min(ratios) <= 1 <= max(ratios) else "beyond"
    print(f"    A median of {middle:.3f}: {within} the spread of the pairs.")


def _measure(work: Path, scene: Path, mode: Mode) -> tuple[float, float]:
    """Seconds to start Blender and open the scene, and seconds to render its frames."""
    data = scene.read_bytes()
    inputs = [Input(path=SCENE, source=str(scene), size=len(data), sha256=hashlib.sha256(data).hexdigest())]
    layout = lay_out(inputs, work / "tree", mode)
    folder = work / "blender"
    folder.mkdir(mode=0o755)
    limits = BlenderLimits((min(os.sched_getaffinity(0)),), 70_000, mode)
    install = blender()
    package = Package(id=install.id, kind=install.kind, path=install.path, release=install.release)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    begun = time.perf_counter()
    process = Blender(
        limits, package, SceneOrder(SCENE, RenderSettings(), {}), layout, folder, events, lambda _: None
    )
    try:
        process.open_scene()
        _wait_for(events, Opened)
        opened = time.perf_counter()
        for frame in range(1, FRAMES + 1):
            process.render(frame)
            _wait_for(events, Saved)
        return opened - begun, time.perf_counter() - opened
    finally:
        process.kill()


def _wait_for(events: queue.SimpleQueue[Event], event_type: type[Event]) -> None:
    while not isinstance(event := events.get(timeout=600), event_type):
        if isinstance(event, Failed | Exited):
            raise SystemExit(f"Blender did not render: {event}")
