"""Trying the features of a Blender: a real one, and false ones that end, hang and lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefarm.core.blender_features import Feature
from framefarm.node import blender_probe

TWO = (Feature.OCEAN, Feature.USD)


def fake(path: Path, body: str) -> str:
    """A program in place of Blender. Its function `say` prints as features.py does."""
    lines = ["#!/bin/sh", 'say() { echo "framefarm: $*"; }', body]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.blender
@pytest.mark.parametrize("series", ["4.2", "5.2"])
def test_the_bpy_packages_lack_fluids_alone(series: str) -> None:
    found = sorted(Path("/var/lib/framefarm/runtimes").glob(f"bpy-{series}.*/bin/python"))
    if not found:
        pytest.skip(f"no Blender {series} here: framefarm blender install {series}")
    assert blender_probe.try_features("bpy", str(found[-1])) == ["fluid_simulation"]


def test_a_feature_that_ends_blender_is_lacking_and_the_others_are_tried(tmp_path: Path) -> None:
    program = fake(
        tmp_path / "blender",
        "for code; do case $code in ocean) say trying ocean; kill -9 $$;; "
        "usd) say trying usd; say works usd;; esac; done; say done",
    )
    assert blender_probe.try_features("executable", program, TWO) == ["ocean"]


def test_a_feature_that_hangs_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blender_probe, "TRY_SECONDS", 0.3)
    program = fake(tmp_path / "blender", "say trying ocean; exec sleep 60")
    assert blender_probe.try_features("executable", program, (Feature.OCEAN,)) == ["ocean"]


@pytest.mark.parametrize("body", ["exit 1", "exit 0", "say lacks riddles", "echo Blender 4.2"])
def test_nothing_is_known_of_a_program_that_tries_nothing(tmp_path: Path, body: str) -> None:
    assert blender_probe.try_features("executable", fake(tmp_path / "blender", body), TWO) is None


def test_features_are_tried_once_and_again_when_there_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blender_probe, "try_features", lambda *_: ["usd", "ocean"])
    assert blender_probe.lacking("bpy", "python", tmp_path) == ["usd", "ocean"]
    monkeypatch.setattr(blender_probe, "try_features", lambda *_: pytest.fail("tried again"))
    assert blender_probe.lacking("bpy", "python", tmp_path) == ["ocean", "usd"]
    results = tmp_path / blender_probe.RESULTS
    results.write_text(results.read_text().replace('"webp", ', ""))
    monkeypatch.setattr(blender_probe, "try_features", lambda *_: [])
    assert blender_probe.lacking("bpy", "python", tmp_path) == []
