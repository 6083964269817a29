"""Time from a cancel to the end of the session's last process, with a Blender in the middle of a frame."""

from __future__ import annotations

import argparse
import os
import select
import time

import psutil
from harness import bench_farm, prepare_rendering, row, until

TURNS = 7


def run(options: argparse.Namespace) -> None:
    responses, first, last = [], [], []
    with bench_farm() as farm:
        prepare_rendering(farm, options)
        for turn in range(options.turns or TURNS):
            job = farm.submit(
                frame_range="1-1000", blender_version="blender-4-2", max_sessions=1,
                output_path=f"gs://renders/{turn}",
            )  # fmt: skip
            until(lambda job=job: farm.job(job)["frames"]["done"] >= 2)  # type: ignore[misc]
            alive = farm.processes()
            if len(alive) < 2:
                raise SystemExit("no runner with a Blender was found")
            handles = [os.pidfd_open(p.pid) for p in alive]
            asked = time.perf_counter()
            farm.patch(job, action="cancel")
            responses.append((time.perf_counter() - asked) * 1000)
            ends = _ends(handles)
            first.append(ends[0] - asked)
            last.append(ends[-1] - asked)
            until(farm.quiet, 0.05)
            if remaining := [p.pid for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
                raise SystemExit(f"these processes still run: {remaining}")
    row("response to the cancel", responses, "ms")
    row("cancel to the end of the first process", first, "s")
    row("cancel to the end of the last process", last, "s", "goal 1; there is no grace")


def _ends(handles: list[int]) -> list[float]:
    """Times at which the processes ended, in order, as of time.perf_counter."""
    ends, waiting = [], select.poll()
    for handle in handles:
        waiting.register(handle, select.POLLIN)
    while len(ends) < len(handles):
        for handle, _ in waiting.poll():
            ends.append(time.perf_counter())
            waiting.unregister(handle)
            os.close(handle)
    return ends
