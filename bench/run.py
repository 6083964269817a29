"""Benchmarks of the farm itself, as medians and ratios of one run. `script/bench [NAME …] [--scene PATH]`.

overhead     5,000 one-frame tasks on 2 slots with an instant stand-in for Blender
scene        24 one-frame tasks, compared to two plain Blenders and to one Blender process per frame
sandbox      Blender with and without the sandbox, by the same driver: 7 interleaved pairs
lookups      Blender with and without the watch of missing files: a scene, and one of 3,000 textures
preemption   an on-demand job submitted while preemptible sessions hold all slots
cancel       from a cancel to the end of a warm session's last process
huge         calls on a job of 1,000,000 frames and on one of 1,000; submitting 10,000 paths
follow       from a saved frame to its event at 100 clients of the job's stream
trace        finding the files of a scene that names 10,000 pictures; reading a scene of 2 GB
server       memory and processor of an idle server; growth during a large upload

Each figure is a median, with the least and greatest value and their number.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from harness import HERE, machine_description, table

NAMES = (
    "overhead", "scene", "sandbox", "lookups", "preemption", "cancel", "huge", "follow", "trace", "server",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="benches to run; default all")
    default = HERE.parent.parent / "shared" / "scenes" / "bmw27_light.blend"
    scene_help = "scene to render; if it does not exist, one is made by script"
    parser.add_argument("--scene", default=str(default), help=scene_help)
    parser.add_argument("--turns", type=int, default=None, help="how often each figure is measured")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exits normally, so that the farm is stopped
    print(machine_description(), flush=True)
    for name in options.names or NAMES:
        print(name, flush=True)
        importlib.import_module(name).run(options)
    table()


if __name__ == "__main__":
    main()
