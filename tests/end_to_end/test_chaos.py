"""A short chaos run. `script/chaos --kills 200` is a long one; docs/chaos.md has its report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "chaos" / "run.py"


@pytest.mark.blender
@pytest.mark.long
def test_a_short_chaos_run_violates_no_invariant() -> None:
    run = subprocess.run([sys.executable, RUN, "--kills", "6", "--seed", "1"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "FAILED" not in run.stdout
    assert run.stdout.count("holds ") >= 7
