"""Frames of unbaked simulations, rendered in any order, against plain Blender that plays the file through."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from blender_harness import BlenderHarness
from PIL import Image

from framefarm.core.frames import FrameSet
from framefarm.node import output_files
from framefarm.protocol.node import Package
from framefarm.server.files import scene_reader
from framefarm.server.submission import simulations as checks

pytestmark = pytest.mark.blender


@pytest.fixture(scope="session")
def simulations(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulations")
    script = Path(__file__).with_name("make_simulations.py")
    subprocess.run([bpy_python, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def shots(tmp_path: Path, package: Package, simulations: Path, harness: BlenderHarness) -> BlenderHarness:
    harness.scenes = simulations
    return harness


def pixels(path: Path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


def assert_as_played(shots: BlenderHarness, name: str, frames: list[int]) -> list[str]:
    """Render the frames, each requested on its own, in one Blender. Returns the codes of its warnings."""
    blender = shots.start(name)
    blender.open_scene()
    codes = [warning.code for warning in shots.opened().warnings]
    plain = {frame: pixels(shots.scenes / name / f"{frame:04d}.png") for frame in range(1, 9)}
    assert len(set(plain.values())) == 8, "the simulation moves"
    wrong = []
    for frame in frames:
        blender.render(frame)
        [file] = output_files.collect(shots.saved().directory, shots.folder / "staging", "film", frame)
        if pixels(shots.folder / "staging" / file.staged) != plain[frame]:
            wrong.append(frame)
    assert wrong == []
    return codes


def test_frames_are_as_played_from_the_start(shots: BlenderHarness) -> None:
    """A chunk from the middle, one further on, a step back, the first and the last frame."""
    assert assert_as_played(shots, "played", [4, 5, 6, 8, 3, 1, 2]) == ["unbaked_simulation"]


def test_a_simulation_of_a_library_is_found_by_blender(shots: BlenderHarness) -> None:
    assert assert_as_played(shots, "linked", [6, 7, 2]) == ["unbaked_simulation"]


def test_hair_is_played_anew_for_each_frame(shots: BlenderHarness) -> None:
    assert assert_as_played(shots, "fur", [3, 4, 8]) == ["unbaked_simulation"]


def test_motion_blur_reaches_into_the_next_frame(shots: BlenderHarness) -> None:
    assert assert_as_played(shots, "blurred", [4, 5, 8]) == ["unbaked_simulation"]


def test_a_bake_in_a_folder_needs_no_play(shots: BlenderHarness) -> None:
    assert assert_as_played(shots, "zone", [6, 2]) == []
    path = shots.scenes / "zone.blend"
    uploaded = [str(file) for file in shots.scenes.rglob("*")]
    [facts] = scene_reader.read_scenes([(str(path), path)])
    [scene] = facts.scenes
    assert [(s.object, s.modifier) for s in scene.baked_simulations] == [("Zone", "Nodes")]
    frames = FrameSet.of(range(1, 9))
    assert checks.check(scene, frames, str(path), uploaded).warnings == []
    [warning] = checks.check(scene, frames, str(path), []).warnings
    assert warning["code"] == "unbaked_simulation"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("particles", ("particles of Cloud (modifier Snow), cache frames 1 to 8", "differently")),
        ("early", ("cloth of Early (modifier Cloth), cache frames 1 to 8", "before the scene's first frame")),
        ("hidden", ("cloth of Unseen", "hidden in the viewport")),
        ("edit", ("cloth of Sheet", "another scene")),
    ],
)
def test_simulation_must_be_baked(shots: BlenderHarness, name: str, words: tuple[str, ...]) -> None:
    blender = shots.start(name)
    blender.open_scene()
    [warning] = shots.opened().warnings
    assert warning.code == "simulation_must_be_baked"
    assert all(word in warning.message for word in words), warning.message
