from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_farm import FakeFarm, fake_farm

from framefarm.node import blender_installs


@pytest.fixture
def fake() -> Iterator[FakeFarm]:
    with fake_farm() as farm:
        yield farm


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders for logins and caches of the test's own, instead of those of the user who runs it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    for name in ("FRAMEFARM_URL", "FRAMEFARM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def blends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shot.blend and the files that it needs, made by Blender 4.2."""
    blender = next((b for b in blender_installs.installed() if b.id == "blender-4-2"), None)
    if blender is None:
        pytest.skip("no Blender 4.2 here: framefarm blender install 4.2")
    folder = tmp_path_factory.mktemp("blends")
    command = [blender.path, str(Path(__file__).with_name("make_blends.py")), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder
