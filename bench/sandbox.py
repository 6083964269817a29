"""What being shut in costs a Blender: 7 interleaved pairs, one in the sandbox and one at large.

Both are driven by the runner's own code on the same core, as the same unprivileged user: start, open the
scene, render, end. Nothing else of the farm is measured.
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

from harness import blender, row, the_scene

from framefarm.node.blender import Blender, BlenderLimits, Opened, SceneOrder
from framefarm.node.blender_events import Event, Exited, Failed, Saved
from framefarm.node.inputs import lay_out
from framefarm.protocol.node import Input, Package, RenderSettings
from framefarm.sandboxing.bubblewrap import Mode

PAIRS, FRAMES = 7, 6
SCENE = "/bench/scene.blend"
MODES: tuple[Mode, Mode] = ("bubblewrap", "none")


def run(options: argparse.Namespace) -> None:
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory(prefix="framefarm-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # at large, Blender's user comes by here
        scene = the_scene(options, folder)
        for pair in range((options.turns or PAIRS) + 1):
            for mode in MODES if pair % 2 else reversed(MODES):
                work = folder / f"{pair}-{mode}"
                work.mkdir()
                took = _once(work, scene, mode)
                if pair:  # the first one warms the disk's cache
                    found[mode].append(took)
    shut_in, at_large = (found[mode] for mode in MODES)
    row("start and open, in the sandbox", [a for a, _ in shut_in], "s")
    row("start and open, at large", [a for a, _ in at_large], "s")
    row(f"{FRAMES} frames, in the sandbox", [b for _, b in shut_in], "s")
    row(f"{FRAMES} frames, at large", [b for _, b in at_large], "s")
    ratios = [sum(a) / sum(b) for a, b in zip(shut_in, at_large, strict=True)]
    row("all, in the sandbox / at large", ratios, "x", "goal: 1 within the spread")
    row(
        "frames, in the sandbox / at large",
        [a / b for (_, a), (_, b) in zip(shut_in, at_large, strict=True)],
        "x",
    )
    middle = statistics.median(ratios)
    within = "within" if min(ratios) <= 1 <= max(ratios) else "beyond"
    print(f"    A median of {middle:.3f}: {within} the spread of the pairs.")


def _once(work: Path, scene: Path, mode: Mode) -> tuple[float, float]:
    """Seconds to start and open, and to render."""
    data = scene.read_bytes()
    inputs = [Input(path=SCENE, source=str(scene), size=len(data), sha256=hashlib.sha256(data).hexdigest())]
    layout = lay_out(inputs, work / "tree", mode)
    place = work / "blender"
    place.mkdir(mode=0o755)
    seat = BlenderLimits((min(os.sched_getaffinity(0)),), 70_000, mode)
    used = blender()
    package = Package(id=used.id, kind=used.kind, path=used.path, release=used.release)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    begun = time.perf_counter()
    one = Blender(
        seat, package, SceneOrder(SCENE, RenderSettings(), {}), layout, place, events, lambda _: None
    )
    try:
        one.open_scene()
        _next(events, Opened)
        opened = time.perf_counter()
        for frame in range(1, FRAMES + 1):
            one.render(frame)
            _next(events, Saved)
        return opened - begun, time.perf_counter() - opened
    finally:
        one.kill()


def _next(events: queue.SimpleQueue[Event], kind: type[Event]) -> None:
    while not isinstance(event := events.get(timeout=600), kind):
        if isinstance(event, Failed | Exited):
            raise SystemExit(f"Blender did not render: {event}")
