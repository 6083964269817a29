"""A short part of the conformance suite: the farm's pictures equal those of plain Blender, pixel by pixel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "conformance" / "run.py"


@pytest.mark.blender
@pytest.mark.long
def test_the_farms_pictures_equal_those_of_plain_blender(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, RUN, "--quick", "--blender", "4.2", "--json", results]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {one["scene"]: one["outcome"] for one in json.loads(results.read_text())}
    assert len(outcomes) >= 8
    assert set(outcomes.values()) <= {"equal", "told"}, outcomes
