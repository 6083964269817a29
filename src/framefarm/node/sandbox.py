"""Blender's sandbox: the farm's own folders in it, and the parts of `sandboxing` that the node uses."""

from __future__ import annotations

import stat
from pathlib import Path

from framefarm.sandboxing.bubblewrap import Bind, Mode, Process, Sandbox, check
from framefarm.sandboxing.errors import SandboxUnavailable

FARM_FOLDER = "/run/framefarm"
"""Path in the sandbox of the farm's own folder: the code that drives Blender, and Blender itself."""
OUTPUT_FOLDER = "/output"
"""Path in the sandbox of the folder that Blender writes to."""


def check_passable(path: Path) -> None:
    """Check that any user may pass through every folder above `path`. Raises SandboxUnavailable.

    Needed without bubblewrap, where the slot's user reaches its files by their real paths.
    """
    for folder in path.absolute().parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise SandboxUnavailable(
                f"Without bubblewrap Blender's user must reach {path}, but {folder} is closed to it: "
                f"put the farm's data elsewhere, or allow passing with chmod o+x."
            )


__all__ = [
    "FARM_FOLDER",
    "OUTPUT_FOLDER",
    "Bind",
    "Mode",
    "Process",
    "Sandbox",
    "SandboxUnavailable",
    "check",
    "check_passable",
]
