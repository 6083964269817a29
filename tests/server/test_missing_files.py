"""Files named by a scene, compared with the uploads, with real files of Blender 4.2."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from framefarm.core.path_matching import PathMatch, Uploads
from framefarm.node import blender_installs
from framefarm.server.files.scene_reader import Dependency, SceneFacts, read_scenes
from framefarm.server.submission import missing_files

SCRIPT = Path(__file__).parents[1] / "node" / "make_path_scenes.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    blender = next(b for b in blender_installs.installed() if b.id == "blender-4-2")
    folder = tmp_path_factory.mktemp("paths")
    subprocess.run([blender.path, str(SCRIPT), str(folder)], check=True, capture_output=True, timeout=120)
    return folder


def find_missing(scenes: Path, scene: str, at: str, without: Sequence[str] = ()) -> missing_files.Findings:
    here = {f"{at}/{f.relative_to(scenes)}": f for f in scenes.rglob("*") if f.is_file()}
    here = {path: f for path, f in here.items() if path.removeprefix(at + "/") not in without}

    def read_facts(paths: Sequence[str]) -> Sequence[SceneFacts]:
        return read_scenes([(path, here[path]) for path in paths])

    [facts] = read_facts([f"{at}/{scene}.blend"])
    return missing_files.find_missing(facts, Uploads(here), read_facts)


@pytest.mark.blender
@pytest.mark.parametrize(
    ("scene", "at"),
    [
        ("drive_absolute", "C:/proj"),
        ("drive_nested", "C:/proj"),
        ("unc_nested", "//server/share/proj"),
        ("moved_nested", "/etc/proj"),
        ("relative", "C:/proj"),
        ("relative", "/projects/proj"),
        ("row", "C:/proj"),
    ],
)
def test_no_file_is_missing_if_all_were_uploaded(scenes: Path, scene: str, at: str) -> None:
    found = find_missing(scenes, scene, at)
    assert (found.missing, found.doubtful, found.unreadable, found.aliases) == ({}, {}, {}, [])


@pytest.mark.blender
def test_paths_in_another_case_become_aliases_also_in_linked_libraries(scenes: Path) -> None:
    found = find_missing(scenes, "cased_nested", "C:/proj")
    assert found.missing == found.doubtful == {}
    assert dict(found.aliases) == {
        "C:/proj/LIB/Cased_Outer.blend": "C:/proj/lib/cased_outer.blend",
        "C:/proj/LIB/CASED_inner.blend": "C:/proj/lib/cased_inner.blend",
        "C:/proj/Tex/green.png": "C:/proj/tex/green.png",
    }


@pytest.mark.blender
def test_a_missing_texture_and_a_missing_tile_are_reported_with_the_data_block(scenes: Path) -> None:
    found = find_missing(scenes, "drive_absolute", "C:/proj", ["tex/red.png"])
    assert found.missing == {"C:/proj/tex/red.png": "image red.png"}
    assert [w["subject"] for w in found.warnings()] == ["C:/proj/tex/red.png"]
    assert "(image red.png)" in found.warnings()[0]["message"]
    tiles = find_missing(scenes, "tiles", "C:/proj", ["tiles/skin.1001.png"])
    assert list(tiles.missing) == ["C:/proj/Tiles/skin.1001.png"]
    assert list(
        find_missing(scenes, "row", "C:/proj", [f"row/row_000{n}.png" for n in (1, 2, 3)]).missing
    ) == ["C:/proj/row/row_0001.png"]


@pytest.mark.blender
def test_a_sequence_without_its_first_picture_is_found(scenes: Path) -> None:
    assert find_missing(scenes, "row", "C:/proj", ["row/row_0001.png"]).missing == {}


@pytest.mark.blender
def test_library_files_missing_is_a_warning_of_its_own_and_a_missing_library_is_certain(scenes: Path) -> None:
    found = find_missing(scenes, "unc_nested", "//server/share/proj", ["tex/green.png"])
    assert found.missing == {}
    inner = "//server/share/proj/lib/unc_inner.blend"
    assert {k: list(v) for k, v in found.doubtful.items()} == {inner: ["//server/share/proj/tex/green.png"]}
    assert [(w["code"], w["subject"]) for w in found.warnings()] == [("library_files_missing", inner)]
    lost = find_missing(scenes, "unc_nested", "//server/share/proj", ["lib/unc_outer.blend"])
    assert lost.missing == {"//server/share/proj/lib/unc_outer.blend": "library unc_outer.blend"}


def facts(path: str, *stored_paths: str, kind: str = "library") -> SceneFacts:
    return SceneFacts(path, dependencies=[Dependency(stored_path=w, kind=kind) for w in stored_paths])


def test_libraries_that_link_each_other_are_read_once() -> None:
    of = {"/p/a.blend": facts("/p/a.blend", "//B.blend"), "/p/b.blend": facts("/p/b.blend", "//A.blend")}
    found = missing_files.find_missing(of["/p/a.blend"], Uploads(of), lambda paths: [of[p] for p in paths])
    assert found.aliases == [("/p/B.blend", "/p/b.blend"), ("/p/A.blend", "/p/a.blend")]


def test_library_unread_is_a_warning() -> None:
    broken = SceneFacts("/p/b.blend", cause="unreadable_scene", message="b.blend is cut off.")
    of = {"/p/a.blend": facts("/p/a.blend", "//b.blend"), "/p/b.blend": broken}
    found = missing_files.find_missing(of["/p/a.blend"], Uploads(of), lambda paths: [of[p] for p in paths])
    [warning] = found.warnings()
    assert warning["code"] == "library_unread"
    assert "b.blend is cut off" in warning["message"]


def test_an_image_without_a_file_and_one_that_is_not_required_are_not_missing() -> None:
    scene = facts("C:/p/a.blend", "//", kind="image")
    unused = Dependency(stored_path="//cache_fluid", kind="cache", many=True, required=False)
    scene.dependencies.append(unused)
    assert missing_files.find_missing(scene, Uploads(["C:/p/a.blend"]), lambda _: []).missing == {}


def test_luts_of_a_colour_configuration_are_looked_up_on_its_search_path() -> None:
    config = SceneFacts(
        "C:/ocio/config.ocio", search_path=["luts", "C:\\shared"], luts=["a.spi1d", "b.spi1d"]
    )
    uploads = Uploads(["C:/ocio/config.ocio", "C:/shared/b.spi1d"])
    assert missing_files.find_missing_luts("C:/ocio/config.ocio", config, uploads) == {
        "C:/ocio/luts/a.spi1d": "colour configuration config.ocio"
    }


def test_a_folder_that_many_name_is_gone_through_once() -> None:
    gone_through: list[str] = []

    class Watched(Uploads):
        def find(self, path: str, *, many: bool = False, tiles: Sequence[int] = ()) -> PathMatch:
            gone_through.append(path)
            return super().find(path, many=many, tiles=tiles)

    named = [
        Dependency("//" + "./" * n + "bakes", "cache", many=True, required=n > 5, wanted_by=f"object {n}")
        for n in range(20)
    ]
    found = missing_files.find_missing(
        SceneFacts("/film/a.blend", dependencies=named), Watched([]), lambda _: []
    )
    assert (gone_through, found.missing) == (["/film/bakes"], {"/film/bakes": "object 6"})
