"""Sandboxes that nobody can end any more, ended.

bubblewrap's inner process waits for its outer one at first, before it has asked the kernel to be ended with
it. If the outer one is killed in that moment (its farm or runner was), the inner one waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

NAME = b"bwrap"
OURS = "framefarm"
"""In the arguments of each of our sandboxes, whatever runs in it."""


def end_strays() -> list[int]:
    """Kill every first process of a sandbox of ours whose outer process is gone; returns their numbers."""
    ended = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _is_stray(Path(entry.path)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                ended.append(int(entry.name))
    return ended


def _is_stray(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes()
        if not words.startswith(NAME + b"\0") or OURS.encode() not in words:
            return False
        status = dict(line.split(b":\t", 1) for line in (process / "status").read_bytes().splitlines())
        numbers = status[b"NSpid"].split()
        if len(numbers) < 2 or numbers[-1] != b"1":
            return False  # an outer one
        parent = Path("/proc", status[b"PPid"].decode(), "comm").read_bytes().strip()
    except (OSError, KeyError, ValueError):
        return False
    return parent != NAME
