"""Fixtures for tests of a running farm: the server as a process, real runners and a real Blender."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from running_farm import SCENE, RunningFarm

from framefarm.node.blender_installs import installed


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Content of a small scene with frames 1 to 24 (`SCENE`)."""
    blenders = [b for b in installed() if b.id == "blender-4-2"]
    assert blenders, "Blender 4.2 is not installed; install it: framefarm blender install 4.2 --data DIR"
    path = tmp_path_factory.mktemp("scene") / "monkey.blend"
    program = tmp_path_factory.mktemp("program") / "make.py"
    program.write_text(SCENE)
    subprocess.run([blenders[0].path, program, path], check=True, capture_output=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, scene: bytes) -> Iterator[RunningFarm]:
    farm = RunningFarm(tmp_path_factory.mktemp("farm"))
    farm.open(scene)
    yield farm
    farm.stop()
