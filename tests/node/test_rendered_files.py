"""The files of each kind of output, and their names: a real Blender for each scene."""

from __future__ import annotations

from pathlib import Path

import pytest
from blender_harness import BlenderHarness
from decoder_harness import inspect
from PIL import Image

from framefarm.node import output_files
from framefarm.node.image_decoder import Picture
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
        staging = harness.folder / "staging"
        found.append(
            output_files.collect(saved.directory, staging, "shot", frame, has_picture=saved.has_picture)
        )
        for file in found[-1]:
            if file.kind == "frame" and file.path.endswith((".png", ".jpg", ".webp", ".tif", ".bmp", ".tga")):
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
        ("bmp", ["shot_0007.bmp"], b"BM"),
        ("targa", ["shot_0007.tga"], b""),
        ("iris", ["shot_0007.rgb"], b"\x01\xda"),
        ("hdr", ["shot_0007.hdr"], b"#?"),
        ("dpx", ["shot_0007.dpx"], b"XPDS"),
        ("cineon", ["shot_0007.cin"], b"\x80*_\xd7"),
        ("jpeg2000", ["shot_0007.jp2"], b"\0\0\0\x0c"),
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
        result, thumbnail = inspect(staged(harness, file), mode="none")
        assert isinstance(result, Picture) and thumbnail, result


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


def warnings_of(harness: BlenderHarness, scene: str, frame: int = 7) -> tuple[list[str], set[str]]:
    """(code and subject of all warnings, the frame's files) of a frame."""
    blender = harness.start("outputs", RenderSettings(scene=scene))
    blender.open_scene()
    opened = harness.opened()
    blender.render(frame)
    saved = harness.saved()
    files = output_files.collect(saved.directory, harness.folder / "staging", "shot", frame)
    return [f"{w.code} {w.subject}" for w in (*opened.warnings, *saved.warnings)], {f.path for f in files}


NAMES = {
    "shot_0007.png", "Kinds/own0007.exr", "Kinds/plain0007.png", "Climb/deep/up0007.png", "Odd/end.0007.png",
    "In group/grouped0007.png", "In group_/grouped0007.png", "In group__/grouped0007.png",
    "Second layer/Image0007.png", "Rerouted/Image0007.png", "Odd/day__night0007.png",
}  # fmt: skip
NAMES_OF_VERSION = {
    "4.2": {
        "Odd/{{lit}}_0007.png", "Odd/{resolution_x}x0007.png", "Odd/{blend_name}:0007.png",
        'Odd/a"b?0007.png', "Layers/{resolution_x}_objects_07.exr", "Twice/same0007.png",
        "Twice/same_0010007.png",
    },
    "4.5": {
        "Odd/{lit}_0007.png", "Odd/64x0007.png", "Odd/outputs:0007.png", 'Odd/a"b?0007.png',
        "Layers/64_objects_07.exr", "Twice/same0007.png", "Twice/same_0010007.png",
    },
    "5.0": {
        "Odd/{lit}_0007.png", "Odd/64x0007.png", "Odd/outputs_0007.png", "Odd/a_b_0007.png",
        "Layers/Layers_outputs_07.exr", "Twice/same0007.png", "Twice/Same_0007.png",
    },
}  # fmt: skip


def test_output_without_picture_is_told_and_all_else_has_blenders_names(
    each_harness: BlenderHarness,
) -> None:
    told, files = warnings_of(each_harness, "names")
    assert files == NAMES | NAMES_OF_VERSION[each_harness.package.release]
    assert {t.partition(" ")[2] for t in told if t.startswith("output_without_picture")} == {
        "Ended sequence/Image", "In group___/grouped", "No pass/depth", "Colour/Image", "No image/Image",
        "Blur of nothing/Image",
    }  # fmt: skip


def test_output_renamed_names_the_file_that_could_not_keep_its_name(harness: BlenderHarness) -> None:
    told, files = warnings_of(harness, "names")
    [renamed] = [t for t in told if t.startswith("output_renamed")]
    assert "Odd/day" in renamed and "Odd/day__night0007.png" in files


def test_a_scene_of_file_outputs_alone_has_no_picture_and_needs_no_camera(
    each_harness: BlenderHarness,
) -> None:
    both = rendered(each_harness, RenderSettings(scene="only_nodes"), 7, -7)
    assert [[(f.path, f.kind) for f in files] for files in both] == [
        [("Sea/sea_0007.png", "extra"), ("Sky/sky_0007.png", "extra")],
        [("Sea/sea_-0007.png", "extra"), ("Sky/sky_-0007.png", "extra")],
    ]


def test_a_cut_has_the_files_of_the_scene_that_it_shows_numbered_by_that_scene(
    each_harness: BlenderHarness,
) -> None:
    both = rendered(each_harness, RenderSettings(scene="cut"), 7, 8)
    assert [[f.path for f in files] for files in both] == [
        ["shot_0007.png", "Of the shot/beauty0107.png", "Of the shot/x_107_y.png"],
        ["shot_0008.png", "Of the shot/beauty0108.png", "Of the shot/x_108_y.png"],
    ]


def test_a_cut_with_its_sequencer_off_has_the_files_of_its_own_nodes(harness: BlenderHarness) -> None:
    [files] = rendered(harness, RenderSettings(scene="uncut"), 7)
    assert [f.path for f in files] == ["shot_0007.png", "Not run/Image0007.png"]


def test_views_keep_their_files_apart_and_in_their_folder(each_harness: BlenderHarness) -> None:
    [files] = rendered(each_harness, RenderSettings(scene="odd_views"), 7)
    suffixes = ("", "_.._t:op", "_L", "_L_twin", "_R")
    assert {f.path for f in files} == {
        *(f"shot_0007{suffix}.png" for suffix in suffixes),
        *(f"Views/v0007{suffix}.png" for suffix in suffixes),
    }


def test_an_output_of_a_view_layer_that_is_not_asked_for_is_told(harness: BlenderHarness) -> None:
    blender = harness.start("outputs", RenderSettings(scene="names", view_layers=("ViewLayer",), samples=1))
    blender.open_scene()
    told = [w.subject for w in harness.opened().warnings]
    blender.render(7)
    files = output_files.collect(harness.saved().directory, harness.folder / "staging", "shot", 7)
    assert "Second layer/Image" in told
    assert not any(f.path.startswith("Second layer") for f in files)


def test_an_unknown_template_is_a_name_in_4_2_and_a_missing_file_later(each_harness: BlenderHarness) -> None:
    blender = each_harness.start("outputs", RenderSettings(scene="bad_template"))
    blender.open_scene()
    blender.render(7)
    if each_harness.package.release == "4.2":
        files = output_files.collect(each_harness.saved().directory, each_harness.folder / "st", "shot", 7)
        assert "Unknown/{nonsense}0007.png" in [f.path for f in files]
        return
    failed = each_harness.failed()
    assert failed.cause == "file_missing" and "Unknown/{nonsense}" in failed.message
    assert "Fine" not in failed.message


def test_a_scene_without_an_active_camera_is_refused_before_it_renders(harness: BlenderHarness) -> None:
    harness.start("outputs", RenderSettings(scene="no_active_camera")).open_scene()
    assert harness.failed().cause == "no_camera"


def test_a_camera_of_another_scene_can_be_chosen(harness: BlenderHarness) -> None:
    blender = harness.start("outputs", RenderSettings(scene="png", camera="Elsewhere"))
    blender.open_scene()
    blender.render(7)
    files = output_files.collect(harness.saved().directory, harness.folder / "staging", "shot", 7)
    assert [f.path for f in files] == ["shot_0007.png"]
