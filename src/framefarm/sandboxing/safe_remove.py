"""Removing a folder that a hostile program could write to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def remove_tree(folder: Path) -> bool:
    """Remove `folder` with everything below it. Returns whether it no longer exists.

    Follows no link and stays on one file system. Uses `rm`, since Python's own `rmtree` fails on folders
    nested more deeply than it can recurse.
    """
    subprocess.run(["rm", "-rf", "--one-file-system", "--", os.fspath(folder)], capture_output=True)
    return not os.path.lexists(folder)
