"""The files of each kind of output, and their names: a real Blender for each scene."""

from __future__ import annotations

from pathlib import Path

import pytest
from blender_harness import BlenderHarness
from PIL import Image

from framefarm.node import output_files
from framefarm.protocol.node import RenderSettings, StagedFile

pytestmark = pytest.mark.blender


@pytest.fixture
def harness(harness: BlenderHarness, output_scenes: Path) -> BlenderHarness:
    harness.scenes = output_scenes
    return harness


def rendered(harness: BlenderHarness, settings: RenderSettings, *frames: int) -> list[list[StagedFile]]:
    """The files of each frame, all from one Blender."""
    blender = harness.start("outputs", settings)
    blender.open_scene()
    for frame in frames:
        blender.render(frame)
    found = []
    for frame in frames:
        saved = harness.saved()
        assert saved.frame == frame
        found.append(output_files.collect(saved.directory, harness.folder / "staging", "shot", frame))
        for file in found[-1]:
            if file.kind == "frame" and not file.path.endswith(".exr"):
                assert Image.open(staged(harness, file)).size == (saved.width, saved.height)
    return found


def staged(harness: BlenderHarness, file: StagedFile) -> Path:
    return harness.folder / "staging" / file.staged


@pytest.mark.parametrize(
    ("scene", "names", "start"),
    [
        ("png", ["shot_0007.png"], b"\x89PNG"),
        ("jpeg", ["shot_0007.jpg"], b"\xff\xd8\xff"),
        ("webp", ["shot_0007.webp"], b"RIFF"),
        ("tiff", ["shot_0007.tif"], b"II*\0"),
        ("exr", ["shot_0007.exr"], b"v/1\x01"),
        ("multilayer", ["shot_0007.exr"], b"v/1\x01"),
        ("eyes", ["shot_0007_L.jpg", "shot_0007_R.jpg"], b"\xff\xd8\xff"),
        ("side_by_side", ["shot_0007.png"], b"\x89PNG"),
        ("eyes_in_one_exr", ["shot_0007.exr"], b"v/1\x01"),
        ("three_views", ["shot_0007_L.png", "shot_0007_R.png", "shot_0007_top.png"], b"\x89PNG"),
    ],
)
def test_each_format_has_its_names(
    harness: BlenderHarness, scene: str, names: list[str], start: bytes
) -> None:
    [files] = rendered(harness, RenderSettings(scene=scene), 7)
    assert [(f.path, f.kind) for f in files] == [(name, "frame") for name in names]
    for file in files:
        assert staged(harness, file).read_bytes()[:4].startswith(start)


def test_two_eyes_side_by_side_are_twice_as_wide(harness: BlenderHarness) -> None:
    [[file]] = rendered(harness, RenderSettings(scene="side_by_side"), 7)
    assert Image.open(staged(harness, file)).size == (128, 36)


def test_a_multilayer_picture_holds_the_passes_of_the_layers_asked_for(harness: BlenderHarness) -> None:
    [[file]] = rendered(harness, RenderSettings(scene="multilayer", view_layers=("Second",)), 7)
    header = staged(harness, file).read_bytes()[:4096]
    assert b"Second.Combined.R" in header and b"ViewLayer.Combined.R" not in header


def test_file_output_nodes_never_meet_and_keep_their_own_names(harness: BlenderHarness) -> None:
    both = rendered(harness, RenderSettings(scene="passes"), 7, 12345)
    for files, number, short in zip(both, ("0007", "12345"), ("007", "12345"), strict=True):
        paths = {f.path for f in files}
        assert len(paths) == len(files)
        assert {f.path for f in files if f.kind == "frame"} == {f"shot_{number}.png"}
        assert f"File Output/Image{number}.png" in paths
        assert f"File Output.001/Image{number}.png" in paths
        assert f"File Output.001/image_{number}.png" in paths
        assert f"_Deep_er/sub/x_{short}_y.png" in paths
        assert f"_Deep_er/out{number}.png" in paths
        assert any(p.startswith("All/") and p.endswith(f"{number}.exr") for p in paths)
        assert f"_picture_0007/Image{number}.exr" in paths
        assert not any(p.startswith("Muted") or "unlinked" in p for p in paths)
        assert len(paths) == 8


def test_negative_frames_number_everything_alike(harness: BlenderHarness) -> None:
    [files] = rendered(harness, RenderSettings(scene="passes"), -7)
    paths = {f.path for f in files}
    assert {"shot_-0007.png", "File Output/Image-0007.png", "_Deep_er/sub/x_-007_y.png"} <= paths


def test_without_compositing_the_nodes_write_nothing_and_nothing_is_missed(harness: BlenderHarness) -> None:
    [files] = rendered(harness, RenderSettings(scene="passes_off"), 7)
    assert [f.path for f in files] == ["shot_0007.png"]


def test_a_node_writes_both_eyes(harness: BlenderHarness) -> None:
    [files] = rendered(harness, RenderSettings(scene="passes_of_both_eyes"), 7)
    assert {f.path for f in files} == {
        "shot_0007_L.png", "shot_0007_R.png", "Depth/Image0007_L.png", "Depth/Image0007_R.png",
    }  # fmt: skip


def test_a_stepped_chunk_renders_these_frames_in_this_order_at_the_size_asked_for(
    harness: BlenderHarness,
) -> None:
    settings = RenderSettings(scene="png", resolution_percentage=50, view_layers=("ViewLayer",))
    found = rendered(harness, settings, 9, 1, 5, 100)
    assert [[f.path for f in files] for files in found] == [
        ["shot_0009.png"], ["shot_0001.png"], ["shot_0005.png"], ["shot_0100.png"],
    ]  # fmt: skip
    assert Image.open(staged(harness, found[0][0])).size == (32, 18)
