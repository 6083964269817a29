"""From a cancel to the last process of the session gone: a warm Blender in the middle of a frame."""

from __future__ import annotations

import argparse
import os
import select
import time

import psutil
from harness import a_farm, render_farm, row, until

TURNS = 7


def run(options: argparse.Namespace) -> None:
    answers, gone, first = [], [], []
    with a_farm() as farm:
        render_farm(farm, options)
        for turn in range(options.turns or TURNS):
            job = farm.submit(
                frame_range="1-1000", blender_version="blender-4-2", max_sessions=1,
                output_path=f"gs://renders/{turn}",
            )  # fmt: skip
            until(lambda job=job: farm.job(job)["frames"]["done"] >= 2)  # type: ignore[misc]
            alive = farm.processes()
            if len(alive) < 2:
                raise SystemExit("there is no runner with a Blender")
            handles = [os.pidfd_open(p.pid) for p in alive]
            asked = time.perf_counter()
            farm.patch(job, action="cancel")
            answers.append((time.perf_counter() - asked) * 1000)
            ends = _ends(handles)
            first.append(ends[0] - asked)
            gone.append(ends[-1] - asked)
            until(farm.quiet, 0.05)
            if left := [p.pid for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
                raise SystemExit(f"processes are left: {left}")
    row("the answer to the cancel", answers, "ms")
    row("cancel to the first process gone", first, "s")
    row("cancel to the last process gone", gone, "s", "goal 1; nobody is given a grace")


def _ends(handles: list[int]) -> list[float]:
    """When each process ended, in order."""
    found, waiting = [], select.poll()
    for handle in handles:
        waiting.register(handle, select.POLLIN)
    while len(found) < len(handles):
        for handle, _ in waiting.poll():
            found.append(time.perf_counter())
            waiting.unregister(handle)
            os.close(handle)
    return found
