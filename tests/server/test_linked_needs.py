"""Features that a scene needs for what lies in its libraries, as Blender saves such files."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from framefarm.core.path_matching import Uploads
from framefarm.node import blender_installs
from framefarm.server.files import scene_reader
from framefarm.server.files.scene_reader import Link, Need, Part, SceneFacts
from framefarm.server.submission import linked_needs

FLUID = "fluid Fluid of Domain of smoke ä.blend"


def fluids(name: str, folder: Path) -> list[str]:
    """The parts of the scene that need fluids, with all .blend files below the folder uploaded."""
    files = {str(path): path for path in folder.rglob("*.blend")}
    reads: list[str] = []

    def read_facts(paths: Sequence[str]) -> list[SceneFacts]:
        reads.extend(paths)
        return scene_reader.read_scenes([(path, files[path]) for path in paths], sandbox="none")

    [chosen] = read_facts([str(folder / f"{name}.blend")])
    scene = chosen.scene()
    assert scene is not None, chosen.message
    found = linked_needs.with_libraries(chosen, scene, Uploads(files), read_facts)
    return [need.what for need in found.needs if need.feature == "fluid_simulation"]


def releases() -> list[str]:
    """The oldest and the newest that are installed."""
    found = sorted({b.release for b in blender_installs.installed() if b.kind == "bpy"})
    return sorted({found[0], found[-1]}) if found else ["none"]


@pytest.mark.blender
@pytest.mark.parametrize("release", releases())
def test_fluids_of_libraries_are_found_where_the_picture_shows_them(release: str, tmp_path: Path) -> None:
    blender = next(b for b in blender_installs.installed() if b.release == release)
    script = Path(__file__).with_name("make_linked_fluids.py")
    subprocess.run([blender.path, str(script), str(tmp_path)], check=True, capture_output=True, timeout=120)
    shown = ("object", "child", "instances", "background", "cut")
    assert {name: fluids(name, tmp_path) for name in shown} == {name: [FLUID] for name in shown}
    others = ("dry", "unseen", "aside")
    assert {name: fluids(name, tmp_path) for name in others} == {name: [] for name in others}


def test_libraries_that_link_each_other_are_followed_once() -> None:
    def facts(path: str, other: str, needs: list[Need]) -> SceneFacts:
        part = Part(needs, inside=["GRSet"], links=[Link(f"//{other}", "GRSet")])
        return SceneFacts(path, parts={"GRSet": part})

    files = {
        "/film/a.blend": facts("/film/a.blend", "b.blend", []),
        "/film/b.blend": facts("/film/b.blend", "a.blend", [Need("ocean", "ocean")]),
    }
    scene = scene_reader.Scene(
        "S", True, 1, 1, 1, 1, 24.0, "CYCLES", "PNG", False, None, [], [], 8, 8, 100, 1, [],
        links=[Link("//a.blend", "GRSet"), Link("//gone.blend", "OBGone")],
    )  # fmt: skip
    chosen = SceneFacts("/film/scene.blend", scenes=[scene])

    def read_facts(paths: Sequence[str]) -> list[SceneFacts]:
        return [files[path] for path in paths]

    found = linked_needs.with_libraries(
        chosen, scene, Uploads(files), lambda paths: [files[p] for p in paths]
    )
    assert found.needs == [Need("ocean", "ocean of b.blend")] and found.links == []
