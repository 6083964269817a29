"""Time of 24 one-frame tasks, compared to two plain Blenders and to one Blender process per frame."""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

from harness import bench_farm, bench_scene, blender, prepare_rendering, row, until


def run(options: argparse.Namespace) -> None:
    by_farm, plain, per_frame = [], [], []
    with bench_farm() as farm:
        prepare_rendering(farm, options)
        path, program = bench_scene(options, farm.data), blender().path
        for turn in range(options.turns or 3):
            begun = time.perf_counter()
            job = farm.submit(
                frame_range="1-24", blender_version="blender-4-2", output_path=f"gs://renders/{turn}"
            )
            until(lambda job=job: farm.finished(job), 0.1)  # type: ignore[misc]
            by_farm.append(time.perf_counter() - begun)
            until(farm.quiet, 0.2)
            plain.append(_plain(program, path, farm.data, [range(1, 13), range(13, 25)]))
            per_frame.append(_plain(program, path, farm.data, [range(f, f + 1) for f in range(1, 25)]))
    row("24 frames by the farm, submit to success", by_farm, "s")
    row("two plain Blenders, 12 frames each", plain, "s")
    row("one Blender process a frame", per_frame, "s")
    row("farm / plain", [a / b for a, b in zip(by_farm, plain, strict=True)], "x", "goal 1.05")


RENDER = """
import bpy, sys
path, out, core, first, last = sys.argv[-5:]
bpy.ops.wm.open_mainfile(filepath=path, use_scripts=False)
render = bpy.context.scene.render
render.threads_mode, render.threads = "FIXED", 1
for frame in range(int(first), int(last)):
    bpy.context.scene.frame_set(frame)
    render.filepath = f"{out}/plain_{frame:04d}.png"
    bpy.ops.render.render(write_still=True)
import os; os._exit(0)
"""


def _plain(python: str, path: Path, out: Path, parts: list[range]) -> float:
    """Seconds that plain Blenders with one pinned thread take for these frame ranges, two at a time."""
    begun = time.perf_counter()
    waiting, running = list(parts), {0: None, 1: None}
    while waiting or any(running.values()):
        for core, process in running.items():
            if process is not None and process.poll() is not None:
                running[core] = process = None
            if process is None and waiting:
                part = waiting.pop(0)
                arguments = [str(path), str(out), str(core), str(part.start), str(part.stop)]
                command = ["taskset", "-c", str(core), python, "-c", RENDER, *arguments]
                running[core] = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )  # type: ignore[assignment]
        time.sleep(0.01)
    return time.perf_counter() - begun
