"""5,000 one-frame tasks on 2 slots with an instant stand-in for Blender, all else real."""

from __future__ import annotations

import argparse
import subprocess
import time

from harness import HERE, Farm, a_farm, a_scene, row, until


def run(options: argparse.Namespace) -> None:
    tasks = 5000
    with a_farm() as farm:
        a_scene(farm.data / "scene.blend")
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
            # Session start apart: the clock runs from the first frame done.
            until(lambda job=job: farm.job(job)["frames"]["done"] > 0)  # type: ignore[misc]
            done, begun = farm.job(job)["frames"]["done"], time.perf_counter()
            until(lambda job=job: farm.finished(job), 0.1)  # type: ignore[misc]
            figures.append((time.perf_counter() - begun) / (tasks - done) * 1000)
            ended, have = time.perf_counter(), _thumbnails(farm) - turn * tasks
            drawn.append(have / tasks * 100)
            until(farm.quiet, 0.05)
            late.append(time.perf_counter() - ended)
            if (made := _thumbnails(farm)) != (turn + 1) * tasks:
                raise SystemExit(f"of {(turn + 1) * tasks} thumbnails {made} were made")
    row("a trivial task, all durable", figures, "ms", "goal 3; each picture decoded, checked and drawn")
    row("thumbnails there at the job's end", drawn, "%", "the rest is drawn afterwards, off the path")
    row("the job's end to the sessions' end", late, "s", "the last thumbnails, and being idle")
    row("xargs -P2 running true", plain, "ms")
    row("ratio", [f / p for f, p in zip(figures, plain, strict=True)], "x")
    print(
        "    Batched: up to 16 tasks a hand-out, 64 events a report, reports that meet share one commit, one"
    )
    print(
        "    one folder sync for frames that queue. A crash costs the frame in work of each machine, no more."
    )
    print("    There is no setting without checks and thumbnails, so there is no figure without them.")


def _thumbnails(farm: Farm) -> int:
    return sum(1 for _ in (farm.data / "store").rglob("*.webp"))
