"""A short night of chaos; `script/chaos --kills 200` is the long one, and docs/chaos.md has its report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "chaos" / "run.py"


@pytest.mark.blender
@pytest.mark.long
def test_a_short_night_of_chaos_ends_clean() -> None:
    night = subprocess.run(
        [sys.executable, RUN, "--kills", "6", "--seed", "1"], capture_output=True, text=True
    )
    assert night.returncode == 0, night.stdout[-4000:] + night.stderr[-4000:]
    assert "FAILED" not in night.stdout
    assert night.stdout.count("holds ") >= 7
