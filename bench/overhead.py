"""Time per task of 5,000 one-frame tasks on 2 slots, with an instant stand-in for Blender."""

from __future__ import annotations

import argparse
import subprocess
import time

from harness import HERE, BenchFarm, bench_farm, make_empty_scene, row, until


def run(options: argparse.Namespace) -> None:
    tasks = 5000
    with bench_farm() as farm:
        make_empty_scene(farm.data / "scene.blend")
        farm.upload("/bench/scene.blend", (farm.data / "scene.blend").read_bytes())
        farm.register("blender-9-9", "executable", str(HERE / "fake/fake_instant_blender.py"), "9.9.0")
        figures, plain, drawn, late = [], [], [], []
        for turn in range(options.turns or 3):
            begun = time.perf_counter()
            subprocess.run(f"seq {tasks} | xargs -P2 -n1 true", shell=True, check=True)
            plain.append((time.perf_counter() - begun) / tasks * 1000)
            job = farm.submit(
                frame_range=f"1-{tasks}", blender_version="blender-9-9", output_path=f"gs://renders/{turn}"
            )
            # Without the start of sessions: the time counts from the first frame done.
            until(lambda job=job: farm.job(job)["frames"]["done"] > 0)  # type: ignore[misc]
            done, begun = farm.job(job)["frames"]["done"], time.perf_counter()
            until(lambda job=job: farm.finished(job), 0.1)  # type: ignore[misc]
            figures.append((time.perf_counter() - begun) / (tasks - done) * 1000)
            ended, count = time.perf_counter(), _thumbnails(farm) - turn * tasks
            drawn.append(count / tasks * 100)
            until(farm.quiet, 0.05)
            late.append(time.perf_counter() - ended)
            if (made := _thumbnails(farm)) != (turn + 1) * tasks:
                raise SystemExit(f"{made} of {(turn + 1) * tasks} thumbnails were drawn")
    row("a task of an instant frame", figures, "ms", "goal 3; each picture is decoded, checked and drawn")
    row("thumbnails drawn by the job's end", drawn, "%", "the rest is drawn afterwards")
    row("the job's end to the sessions' end", late, "s", "the last thumbnails, then the idle time")
    row("xargs -P2 running true", plain, "ms")
    row("ratio", [f / p for f, p in zip(figures, plain, strict=True)], "x")
    print(
        "    Batches: up to 16 tasks an assignment, 64 events a report; simultaneous reports share a commit,"
    )
    print("    queued frames share a folder sync. A crash loses only the frame in work of each node.")
    print("    Checks and thumbnails cannot be switched off, so all figures include them.")


def _thumbnails(farm: BenchFarm) -> int:
    return sum(1 for _ in (farm.data / "store").rglob("*.webp"))
