"""Files that a real Blender names or looks for in vain: the artist's path, and who wants it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from blender_harness import BlenderHarness, inputs_of

from framefarm.node.inputs import Layout, lay_out
from framefarm.protocol.node import NodeWarning

pytestmark = pytest.mark.blender


@pytest.fixture(scope="session")
def lookup_scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lookup-scenes")
    script = Path(__file__).with_name("make_lookup_scenes.py")
    subprocess.run([bpy_python, script, folder], check=True, capture_output=True)
    return folder


def told(warnings: tuple[NodeWarning, ...]) -> dict[str, tuple[str, str | None]]:
    """Path → (who wants it, how it was found)."""
    return {w.subject: (w.wanted_by, w.found_by) for w in warnings if w.code == "missing_file"}


WOOD = "image wood grain.png, used by material Wood"
LAMP, SPOT = "node IES Texture of material Lamp", "node IES Texture of material Elsewhere"


@pytest.mark.parametrize("at", ["/film", "D:/film", "/etc/film"])
def test_missing_files_are_named_at_the_opening_and_with_the_frames_that_lack_them(
    harness: BlenderHarness, lookup_scenes: Path, at: str
) -> None:
    layout = lay_out(inputs_of(lookup_scenes, at), harness.folder / "tree")
    blender = harness.start("lookups", layout=layout, at=at)
    blender.open_scene()
    opened = harness.opened()
    assert opened.unwatched == ""
    assert told(opened.warnings) == {
        f"{at}/tex/wood grain.png": (WOOD, "opened"),
        f"{at}/ies/lämp one.ies": (LAMP, "opened"),
        "/elsewhere/spot.ies": (SPOT, "opened"),
        f"{at}/gone layer.usda": ("cache file outer.usda", "opened"),
    }
    blender.render(1)
    blender.render(2)
    always = {
        f"{at}/tex/wood grain.png": (WOOD, "rendered"),
        f"{at}/ies/lämp one.ies": (LAMP, "rendered"),
        "/elsewhere/spot.ies": (SPOT, "rendered"),
        f"{at}/tiles/t.1002.png": ("image t.1001.png", "rendered"),
    }
    first, second = told(harness.saved().warnings), told(harness.saved().warnings)
    layers = {f"{at}/gone layer.usda": ("cache file outer.usda", "rendered")}
    assert {**first, **layers} == {**always, **layers}
    row = {f"{at}/seq/shot_0002_beauty.png": ("image shot_0001_beauty.png", "rendered")}
    assert {**second, **layers} == {**always, **row, **layers}


def test_a_folder_named_as_blenders_own_is_the_artists(harness: BlenderHarness, lookup_scenes: Path) -> None:
    layout = lay_out(inputs_of(lookup_scenes, "/film"), harness.folder / "tree")
    blender = harness.start("named", layout=layout, at="/film")
    blender.open_scene()
    library = str(lookup_scenes / "4.2/datafiles/assets/shades.blend")
    assert told(harness.opened().warnings) == {
        library: ("library shades.blend, for object Prop", "opened"),
        "/film/points.mdd": ("modifier Points of object Own", "opened"),
        str(lookup_scenes / "st/a.png"): ("strip Stills of scene Scene", "opened"),
        str(lookup_scenes / "st/b.png"): ("strip Stills of scene Scene", "opened"),
    }


def test_a_scene_that_is_opened_again_misses_no_more_than_at_first(
    harness: BlenderHarness, lookup_scenes: Path
) -> None:
    layout = lay_out(inputs_of(lookup_scenes, "/film"), harness.folder / "tree")
    blender = harness.start("replayed", layout=layout, at="/film")
    blender.open_scene()
    assert told(harness.opened().warnings) == {}
    blender.render(2)
    blender.render(1)  # its cloth is played from the start once more
    assert [told(harness.saved().warnings) for _ in range(2)] == [{}, {}]


def test_blender_fails_at_once_when_its_watch_ends(harness: BlenderHarness, lookup_scenes: Path) -> None:
    layout: Layout = lay_out(inputs_of(lookup_scenes, "/film"), harness.folder / "tree")
    blender = harness.start("lookups", layout=layout, at="/film")
    blender.open_scene()
    harness.opened()
    os.kill(blender._lookups._watch.pid, signal.SIGKILL)
    failed = harness.failed()
    assert (failed.cause, failed.frame) == ("blender_broken", None)
