"""Blender's sandbox: the places inside that are the farm's own, and what the node needs of `sandboxing`."""

from __future__ import annotations

import stat
from pathlib import Path

from framefarm.sandboxing.bubblewrap import Bind, Mode, Process, Sandbox, check
from framefarm.sandboxing.errors import SandboxUnavailable

INSIDE = "/run/framefarm"
"""The farm's own place inside the sandbox: the code that drives Blender, and Blender itself."""
OUTPUT = "/output"
"""Where Blender writes, inside the sandbox."""


def passable(path: Path) -> None:
    """Raise SandboxUnavailable unless any user may pass through every folder above `path`.

    Without bubblewrap the slot's user reaches its files by their real paths.
    """
    for folder in path.absolute().parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise SandboxUnavailable(
                f"Without bubblewrap Blender's user must reach {path}, but {folder} is closed to it: "
                f"put the farm's data elsewhere, or allow passing with chmod o+x."
            )


__all__ = [
    "INSIDE",
    "OUTPUT",
    "Bind",
    "Mode",
    "Process",
    "Sandbox",
    "SandboxUnavailable",
    "check",
    "passable",
]
