"""Finding a Python of a version."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from framefarm.node import pythons


def stand_in(folder: Path, body: str) -> str:
    folder.mkdir()
    path = folder / "python9.9"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_stand_in_that_does_not_start_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "shims", "echo 'not found' >&2; exit 127")
    stand_in(tmp_path / "other", "echo 9.8")
    right = stand_in(tmp_path / "right", "echo 9.9")
    folders = ["", "relative", *(str(tmp_path / name) for name in ("shims", "other", "right"))]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setattr(pythons, "uv", lambda: None)
    assert pythons.find("9.9") == right
    assert pythons.find("9.7") is None


def test_one_that_uv_manages_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    managed = stand_in(tmp_path / "managed", "echo 9.9")
    uv = stand_in(tmp_path / "uv", f"echo {managed}")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(pythons, "uv", lambda: uv)
    assert pythons.find("9.9") == managed


def test_this_python_is_one() -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    assert pythons.find(version) is not None
