"""Taking away a folder that a hostile program could write to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def remove_tree(folder: Path) -> bool:
    """Whether `folder` is gone with all below it, however deep it is nested (which ends Python's own
    `rmtree`). No link is followed."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", os.fspath(folder)], capture_output=True)
    return not os.path.lexists(folder)
