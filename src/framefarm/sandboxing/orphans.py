"""Ending orphans: sandboxes whose runner or farm was killed while it started them.

At first bubblewrap's inner process waits for the outer one; only later does it ask the kernel to be killed
together with it. An outer process killed in between leaves an inner one that waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

BWRAP = b"bwrap"
MARKER = "framefarm"
"""An argument in the command line of each of the farm's sandboxes, whichever program runs inside."""


def end_orphans() -> list[int]:
    """Kill the first process of every orphaned sandbox on this machine. Returns the process ids killed.

    Processes of other users that may not be signalled are skipped.
    """
    ended = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _is_orphan(Path(entry.path)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                ended.append(int(entry.name))
    return ended


def _is_orphan(process: Path) -> bool:
    """Whether a folder below /proc is pid 1 of a sandbox of ours, with a parent other than bwrap."""
    try:
        arguments = (process / "cmdline").read_bytes()
        if not arguments.startswith(BWRAP + b"\0") or MARKER.encode() not in arguments:
            return False
        status = dict(line.split(b":\t", 1) for line in (process / "status").read_bytes().splitlines())
        namespace_pids = status[b"NSpid"].split()
        if len(namespace_pids) < 2 or namespace_pids[-1] != b"1":
            return False  # an outer process
        parent = Path("/proc", status[b"PPid"].decode(), "comm").read_bytes().strip()
    except (OSError, KeyError, ValueError):
        return False
    return parent != BWRAP
