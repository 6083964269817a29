from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_farm import FakeFarm, fake_farm


@pytest.fixture
def fake() -> Iterator[FakeFarm]:
    with fake_farm() as one:
        yield one


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the logins and caches of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    for name in ("FRAMEFARM_URL", "FRAMEFARM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return home
