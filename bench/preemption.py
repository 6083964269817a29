"""Times until an on-demand job starts on slots of preemptible sessions, and until their job goes on."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from harness import BenchFarm, bench_farm, prepare_rendering, row, until

GRACE_SECONDS = 30
TURNS = 5


def run(options: argparse.Namespace) -> None:
    os.environ["FRAMEFARM_PREEMPTION_GRACE_SECONDS"] = str(GRACE_SECONDS)
    starts, restarts, frames, lost = [], [], [], []
    with bench_farm() as farm:
        prepare_rendering(farm, options)
        slots = len(os.sched_getaffinity(0))
        for turn in range(options.turns or TURNS):
            common = {"blender_version": "blender-4-2"}
            preempted = farm.submit(
                frame_range="1-1000", chunk_size=10, preemptible=True, output_path=f"gs://renders/s{turn}",
                **common,
            )  # fmt: skip
            until(lambda preempted=preempted: _busy(farm, preempted) == slots)  # type: ignore[misc]
            before = {a["session"] for a in _attempts(farm, preempted)}
            asked = time.perf_counter()
            on_demand = farm.submit(
                frame_range="1", preemptible=False, output_path=f"gs://renders/r{turn}", **common
            )
            until(lambda on_demand=on_demand: _started(_attempts(farm, on_demand)))  # type: ignore[misc]
            starts.append(time.perf_counter() - asked)
            until(
                lambda preempted=preempted, before=before: _started(  # type: ignore[misc]
                    a for a in _attempts(farm, preempted) if a["session"] not in before
                )
            )
            restarts.append(time.perf_counter() - asked)
            until(lambda on_demand=on_demand: farm.finished(on_demand))  # type: ignore[misc]
            done = farm.all(f"/api/jobs/{preempted}/frames")
            frames += [f["seconds"] for f in done if f["seconds"]]
            lost.append(
                sum(a["outcome"] not in {None, "success", "preempted"} for a in _attempts(farm, preempted))
            )
            farm.patch(preempted, action="cancel")
            until(farm.quiet, 0.1)
    row(
        "submit on demand to its first attempt's start",
        starts,
        "s",
        f"grace {GRACE_SECONDS} s; goal 5 + grace",
    )
    row(
        "submit on demand to the preempted job's next start",
        restarts,
        "s",
        "includes the on-demand job's one frame",
    )
    row(
        "a frame of the preempted job meanwhile",
        frames,
        "s",
        "finished before the slot is taken, within the grace",
    )
    row("attempts that ended badly", [float(n) for n in lost], "", "goal 0")


def _attempts(farm: BenchFarm, job: str) -> list[dict[str, Any]]:
    return farm.all(f"/api/jobs/{job}/attempts")


def _started(attempts: Any) -> bool:
    return any(a["started_at"] for a in attempts)


def _busy(farm: BenchFarm, job: str) -> int:
    """Number of sessions that have rendered a frame of the job and render on."""
    return len({a["session"] for a in _attempts(farm, job) if a["frames_done"] and a["outcome"] is None})
