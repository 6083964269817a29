"""An on-demand job comes while preemptible sessions hold every slot: how soon it starts, they come back."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from harness import Farm, a_farm, render_farm, row, until

GRACE_SECONDS = 30
TURNS = 5


def run(options: argparse.Namespace) -> None:
    os.environ["FRAMEFARM_PREEMPTION_GRACE_SECONDS"] = str(GRACE_SECONDS)
    starts, backs, frames, lost = [], [], [], []
    with a_farm() as farm:
        render_farm(farm, options)
        slots = len(os.sched_getaffinity(0))
        for turn in range(options.turns or TURNS):
            common = {"blender_version": "blender-4-2"}
            spot = farm.submit(
                frame_range="1-1000", chunk_size=10, preemptible=True, output_path=f"gs://renders/s{turn}",
                **common,
            )  # fmt: skip
            until(lambda spot=spot: _busy(farm, spot) == slots)  # type: ignore[misc]
            before = {a["session"] for a in _tries(farm, spot)}
            asked = time.perf_counter()
            rush = farm.submit(
                frame_range="1", preemptible=False, output_path=f"gs://renders/r{turn}", **common
            )
            until(lambda rush=rush: _begun(_tries(farm, rush)))  # type: ignore[misc]
            starts.append(time.perf_counter() - asked)
            until(
                lambda spot=spot, before=before: _begun(  # type: ignore[misc]
                    a for a in _tries(farm, spot) if a["session"] not in before
                )
            )
            backs.append(time.perf_counter() - asked)
            until(lambda rush=rush: farm.finished(rush))  # type: ignore[misc]
            done = farm.all(f"/api/jobs/{spot}/frames")
            frames += [f["seconds"] for f in done if f["seconds"]]
            lost.append(sum(a["outcome"] not in {None, "success", "preempted"} for a in _tries(farm, spot)))
            farm.patch(spot, action="cancel")
            until(farm.quiet, 0.1)
    row(
        "submit on demand to its first attempt's start",
        starts,
        "s",
        f"grace {GRACE_SECONDS} s; goal 5 + grace",
    )
    row("submit on demand to the preempted job's next start", backs, "s", "the rush of one frame included")
    row("a frame of the preempted job meanwhile", frames, "s", "is waited for, within the grace")
    row("attempts that ended badly", [float(n) for n in lost], "", "0 is right")


def _tries(farm: Farm, job: str) -> list[dict[str, Any]]:
    return farm.all(f"/api/jobs/{job}/attempts")


def _begun(tries: Any) -> bool:
    return any(a["started_at"] for a in tries)


def _busy(farm: Farm, job: str) -> int:
    """Sessions that have done a frame of it, and render on."""
    return len({a["session"] for a in _tries(farm, job) if a["frames_done"] and a["outcome"] is None})
