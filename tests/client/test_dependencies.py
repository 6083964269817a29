"""Files that a scene needs: from a real .blend written by Blender 4.2, and from damaged ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framefarm.client import LocalProblem, dependencies, files_behind, scene_process
from framefarm.node import blender_installs

PATH_SCENES = Path(__file__).parents[1] / "node" / "make_path_scenes.py"
TEXTURES = ["plain.png", "sea_009.png", "sea_010.png", "sea_011.png", "middle.png", "deep.png"]
TILES = ["skin.1001.png", "skin.1002.png", "skin.1011.png"]


@pytest.mark.blender
def test_textures_sequences_tiles_and_libraries_of_libraries_are_found_and_no_more(blends: Path) -> None:
    found = dependencies.find(blends / "shot.blend")
    assert found.files[0] == blends / "shot.blend"
    assert set(found.files[1:]) == {
        *(blends / "textures" / name for name in [*TEXTURES, *TILES]),
        blends / "libraries" / "outer.blend",
        blends / "libraries" / "inner.blend",
    }


@pytest.mark.blender
def test_a_missing_file_is_named_with_the_data_block_that_needs_it(blends: Path) -> None:
    (missing,) = dependencies.find(blends / "shot.blend").missing
    assert (missing.path, missing.wanted_by) == (str(blends / "textures" / "gone.png"), "image gone.png")


@pytest.mark.blender
def test_version_and_frame_ranges_are_read_from_a_blend(blends: Path) -> None:
    facts = dependencies.read_scene(blends / "shot.blend")
    assert (facts.version, facts.active) == ((4, 2), "Shot")
    assert facts.frame_range() == "5-20x5"
    assert facts.frame_range("Still") == "1"
    with pytest.raises(LocalProblem, match="it has Shot, Still"):
        facts.frame_range("Other")


@pytest.mark.blender
def test_a_separate_process_reads_the_same_facts(blends: Path) -> None:
    shot = blends / "shot.blend"
    assert scene_process.read_scene(shot) == dependencies.read_scene(shot)
    assert scene_process.find(shot) == dependencies.find(shot)


def test_modules_in_the_current_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocalProblem, match="does not exist"):
        scene_process.read_scene(tmp_path / "x.blend")


@pytest.mark.parametrize("what", ["memory = [0] * (1 << 60)", "while True: pass", "import os; os._exit(1)"])
def test_reading_that_exceeds_time_or_memory_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A damaged scene can harm only the separate process that reads it."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{what}\n")
    program.chmod(0o755)
    monkeypatch.setattr(scene_process.sys, "executable", str(program))
    monkeypatch.setattr(scene_process, "SECONDS", 2.0)
    with pytest.raises(LocalProblem, match=r"x\.blend cannot be read as a \.blend: that took more than"):
        scene_process.read_scene(tmp_path / "x.blend")


@pytest.mark.blender
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1), junk=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_a_damaged_scene_is_read_or_reported_in_one_sentence(
    blends: Path, tmp_path: Path, where: float, junk: bytes, cut: bool
) -> None:
    data = (blends / "libraries" / "inner.blend").read_bytes()
    at = int(where * (len(data) - 1))
    damaged = tmp_path / "damaged.blend"
    damaged.write_bytes(data[:at] + junk + (b"" if cut else data[at + len(junk) :]))
    for read in (scene_process.read_scene, scene_process.find):
        try:
            read(damaged)
        except LocalProblem as problem:
            assert "damaged.blend" in str(problem)


@pytest.mark.parametrize("data", [b"", b"BLENDER", b"\x89PNG....", b"\x28\xb5\x2f\xfd....", b"\x1f\x8b...."])
def test_a_file_that_is_no_blend_is_reported(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.blend"
    path.write_bytes(data)
    with pytest.raises(LocalProblem, match=r"x\.blend (cannot be read as a|is no) \.blend"):
        dependencies.read_scene(path)


def test_a_scene_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LocalProblem, match="does not exist"):
        dependencies.read_scene(tmp_path / "x.blend")


def test_folders_are_expanded_to_the_files_below_them(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/1", "a/b/2", "3"):
        (tmp_path / name).write_text("")
    found = dependencies.expand([tmp_path / "3", tmp_path / "a", tmp_path / "a" / "1"])
    assert found == [tmp_path / "3", tmp_path / "a" / "1", tmp_path / "a" / "b" / "2"]
    with pytest.raises(LocalProblem, match="nothing-there"):
        dependencies.expand([tmp_path / "nothing-there"])


def test_links_to_folders_are_followed_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "studio" / "deep").mkdir(parents=True)
    (tmp_path / "studio" / "deep" / "wood.png").write_text("")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "shared").symlink_to("../studio")
    (tmp_path / "given" / "again").symlink_to("../studio")
    (tmp_path / "given" / "circle").symlink_to("../given")
    (tmp_path / "given" / "lost.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "given" / "pipe")
    doubts: list[dependencies.Doubt] = []
    found = dependencies.expand([tmp_path / "given"], doubts)
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "given/again/deep/wood.png",
        "given/shared/deep/wood.png",
    ]
    assert sorted(Path(d.path).name for d in doubts) == ["circle", "lost.png", "pipe"]


@pytest.mark.blender
def test_a_library_that_cannot_be_read_is_a_doubt_and_the_scene_is_sent(blends: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(blends, folder)
    outer = folder / "libraries" / "outer.blend"
    outer.write_bytes(outer.read_bytes()[:5000])
    found = dependencies.find(folder / "shot.blend")
    assert outer in found.files
    assert [d.why for d in found.doubts if d.path == str(outer)] == [
        "is cut off: it ends in the middle of its data"
    ]
    outer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    found = dependencies.find(folder / "shot.blend")
    [why] = [d.why for d in found.doubts if d.path == str(outer)]
    assert "Git LFS pointer" in why


@pytest.fixture(scope="module")
def path_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    blender = next(b for b in blender_installs.installed() if b.id == "blender-4-2")
    folder = tmp_path_factory.mktemp("path-scenes")
    command = [blender.path, str(PATH_SCENES), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.mark.blender
@pytest.mark.parametrize(
    ("scene", "needed"),
    [
        ("case", ["tex/blue.png"]),
        ("relative", ["../proj/tex/blue.png"]),
        ("row", ["row/row_0001.png", "row/row_0002.png", "row/row_0003.png"]),
        ("tiles", ["tiles/skin.1001.png"]),
        ("cased_nested", ["lib/cased_outer.blend", "lib/cased_inner.blend", "tex/green.png"]),
    ],
)
def test_files_are_found_by_windows_paths_and_in_other_case(
    path_scenes: Path, tmp_path: Path, scene: str, needed: list[str]
) -> None:
    folder = tmp_path / "proj"
    shutil.copytree(path_scenes, folder)
    found = dependencies.find(folder / f"{scene}.blend")
    assert found.missing == ()
    assert sorted(found.files[1:]) == sorted(Path(os.path.normpath(folder / name)) for name in needed)


@pytest.mark.blender
@pytest.mark.parametrize(
    ("scene", "path_end"),
    [("drive_absolute", "C:/proj/tex/red.png"), ("unc_absolute", "\\\\server\\share\\proj\\tex\\red.png")],
)
def test_an_absolute_windows_path_is_missing_and_named_as_stored(
    path_scenes: Path, scene: str, path_end: str
) -> None:
    (missing,) = dependencies.find(path_scenes / f"{scene}.blend").missing
    assert missing.path.replace("\\", "/").endswith(path_end.replace("\\", "/"))


def test_layers_of_a_binary_usd_are_found_or_a_warning_says_that_they_were_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdf = pytest.importorskip("pxr.Sdf")
    (tmp_path / "parts").mkdir()
    sdf.Layer.CreateNew(str(tmp_path / "parts" / "a.usdc")).Save()
    layer = sdf.Layer.CreateNew(str(tmp_path / "shot.usdc"))
    layer.subLayerPaths.append("./parts/a.usdc")
    layer.subLayerPaths.append("gone.usd")
    layer.Save()
    found = files_behind.named_by(tmp_path / "shot.usdc")
    assert [(r.stored, r.required) for r in found.references] == [
        (b"//./parts/a.usdc", True),
        (b"//gone.usd", True),
    ]
    monkeypatch.setitem(sys.modules, "pxr", None)
    assert "framefarm[usd]" in (files_behind.named_by(tmp_path / "shot.usdc").why_not or "")
