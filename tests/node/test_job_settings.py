"""A job's settings of render engines hold for every scene that is rendered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy
import OpenImageIO as oiio
import pytest
from blender_harness import BlenderHarness
from PIL import Image

from framefarm.node import output_files
from framefarm.protocol.node import RenderSettings

pytestmark = pytest.mark.blender
SCRIPT = Path(__file__).with_name("make_settings_scenes.py")


@pytest.fixture(scope="module")
def settings_scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings-scenes")
    subprocess.run([bpy_python, SCRIPT, folder], check=True, capture_output=True)
    return folder


def test_samples_hold_for_all_scenes_layers_and_animations(
    harness: BlenderHarness, settings_scenes: Path
) -> None:
    harness.scenes = settings_scenes
    layout = harness.layout()
    for scene in ("composed", "cut", "own_layer", "animated", "driven"):
        blender = harness.start(scene, RenderSettings(samples=2), layout=layout)
        blender.open_scene()
        assert harness.opened().warnings == (), scene
        blender.render(1)
        harness.saved()
        blender.kill()
        assert harness.exited().cause == "killed"
        assert b"Sample 2/2" in harness.printed and b"/37" not in harness.printed, scene
        harness.printed.clear()


def test_samples_ignored_only_where_no_rendered_scene_has_samples(
    harness: BlenderHarness, settings_scenes: Path
) -> None:
    harness.scenes = settings_scenes
    harness.start("own_layer", RenderSettings(samples=2, engine="workbench")).open_scene()
    assert [warning.code for warning in harness.opened().warnings] == ["samples_ignored"]


@pytest.mark.parametrize("scene", ["ranged", "simplified", "diced"])
def test_frames_are_as_in_an_animation(harness: BlenderHarness, settings_scenes: Path, scene: str) -> None:
    """The scene keeps its range while a frame is rendered, and nothing is left of the frame before."""
    harness.scenes = settings_scenes
    blender = harness.start(scene)
    blender.open_scene()
    harness.opened()
    for frame in (2, 3, 1):
        blender.render(frame)
        [file] = output_files.collect(harness.saved().directory, harness.folder / "staging", "film", frame)
        pictures = (harness.folder / "staging" / file.staged, settings_scenes / scene / f"{frame:04d}.png")
        ours, plain = (Image.open(path).convert("RGB").tobytes() for path in pictures)
        assert ours == plain, frame


def test_each_of_several_view_layers_has_its_own_passes(
    harness: BlenderHarness, settings_scenes: Path
) -> None:
    harness.scenes = settings_scenes
    blender = harness.start("layers")
    blender.open_scene()
    harness.opened()
    blender.render(1)
    [file] = output_files.collect(harness.saved().directory, harness.folder / "staging", "film", 1)
    parts = 0
    while True:
        ours = oiio.ImageBuf(str(harness.folder / "staging" / file.staged), parts, 0)
        plain = oiio.ImageBuf(str(settings_scenes / "layers" / "0001.exr"), parts, 0)
        if not plain.initialized:
            break
        assert ours.spec().channelnames == plain.spec().channelnames
        assert numpy.array_equal(ours.get_pixels(oiio.FLOAT), plain.get_pixels(oiio.FLOAT), equal_nan=True)
        parts += 1
    assert parts
