"""What the farm itself costs: ratios and medians measured in one run. `script/bench [NAME …] [--scene PATH]`.

overhead     5,000 one-frame tasks on 2 slots with an instant stand-in for Blender, all else real
scene        24 one-frame tasks beside two plain Blenders, and beside one Blender process per frame
sandbox      Blender shut in beside Blender at large, by the same driver: 7 interleaved pairs
preemption   an on-demand job comes while two preemptible sessions hold both slots
cancel       a cancel to the last process of a warm session gone
huge         a job of 1,000,000 frames beside one of 1,000; submitting 10,000 paths
follow       frame saved to 100 clients of the job's event stream
server       memory and processor of an idle server; growth while a large file arrives

Each figure is a median with its spread, least to most, and how many were measured.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from harness import HERE, machine, table

NAMES = ("overhead", "scene", "sandbox", "preemption", "cancel", "huge", "follow", "server")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="which; all by default")
    default = HERE.parent.parent / "shared" / "scenes" / "bmw27_light.blend"
    scene = "what Blender renders; without one at hand it is made by script"
    parser.add_argument("--scene", default=str(default), help=scene)
    parser.add_argument("--turns", type=int, default=None, help="how often each thing is measured")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the farm is stopped, too
    print(machine(), flush=True)
    for name in options.names or NAMES:
        print(name, flush=True)
        importlib.import_module(name).run(options)
    table()


if __name__ == "__main__":
    main()
