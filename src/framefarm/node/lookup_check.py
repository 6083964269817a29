"""Whether this machine lets the farm see which files Blender looks for in vain.

`python -m framefarm.node.lookup_check MODE` prints a warning to standard error if it doesn't.
"""

from __future__ import annotations

import os
import sys

from framefarm.node.blender_launch import PROGRAM
from framefarm.node.sandbox import Bind, Mode, Sandbox
from framefarm.sandboxing.errors import SandboxUnavailable
from framefarm.sandboxing.lookup_watch import Lookups, LookupWatch, WatchedPlaces, WatchLost
from framefarm.sandboxing.module_call import programs
from framefarm.sandboxing.uids import UidClaim

_LOOKED_FOR = "/looked-for/by-the-farm.png"
_OFFER = (
    "\nimport os, sys\noffer(int(sys.argv[1]))\nos.access({path!r}, os.R_OK)\nprint('looked', flush=True)\n"
)


def why_unseen(mode: Mode = "bubblewrap") -> str | None:
    """One clause why lookups are not seen here; None if they are. Takes some 0.1 s.

    A program in a sandbox looks for a file that does not exist. Raises SandboxUnavailable or OSError.
    """
    cores = (min(os.sched_getaffinity(0)),)
    watch = LookupWatch(WatchedPlaces((), ("/usr",), plain=mode == "none"), cores)
    source = PROGRAM["lookups.py"].decode() + _OFFER.format(path=_LOOKED_FOR)
    try:
        with UidClaim() as claim, watch.for_program as offered:
            binds: tuple[Bind, ...] = programs() if mode == "bubblewrap" else ()
            process = Sandbox(mode, claim.uid, cores, binds).start(
                [sys.executable, "-I", "-S", "-c", source, str(offered.fileno())],
                {},
                [offered.fileno()],
                any_thread=True,
            )
            offered.close()
            try:
                printed = b"".join(iter(lambda: os.read(process.output, 4096), b"")).decode(errors="replace")
                process.wait(20)
                seen = (
                    watch.take() if printed.endswith("looked\n") else Lookups(refused=printed[-200:].strip())
                )
            finally:
                process.kill()
                process.close()
    except WatchLost:
        return "the watcher ended"
    finally:
        watch.close()
    return seen.refused or (None if _LOOKED_FOR in seen.missed else "a lookup was not seen")


def main() -> None:
    try:
        why = why_unseen("none" if sys.argv[1] == "none" else "bubblewrap")
    except (SandboxUnavailable, OSError):
        return  # without a sandbox nothing renders, which is told elsewhere
    if why:
        sys.stderr.write(
            "warning: files that Blender looks for in vain while it renders are not seen on this machine"
            f" ({why}); files that a scene itself names are told all the same\n"
        )


if __name__ == "__main__":
    main()
