"""The right texture is found under each artist's path: proved by the rendered pixels."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest
from blender_harness import BlenderHarness, inputs_of
from PIL import Image

from framefarm.node import output_files
from framefarm.node.inputs import lay_out

pytestmark = pytest.mark.blender
RED, GREEN, BLUE, NONE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)
DRIVE, UNC, POSIX, MOVED = "C:/proj", "//server/share/proj", "/projects/film/proj", "/etc/proj"

ALIASES = {
    "LIB/Cased_Outer.blend": "lib/cased_outer.blend",
    "LIB/CASED_inner.blend": "lib/cased_inner.blend",
    "Tex/green.png": "tex/green.png",
}
"""The aliases of cased_nested.blend; tests/server/test_missing_files.py checks that the farm gives them."""


@pytest.fixture(scope="session")
def path_scenes(bpy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path-scenes")
    script = Path(__file__).with_name("make_path_scenes.py")
    subprocess.run([bpy_python, script, folder], check=True, capture_output=True)
    return folder


def colour(harness: BlenderHarness, frame: int) -> tuple[int, ...]:
    saved = harness.saved()
    [file] = output_files.collect(saved.directory, harness.folder / "staging", "x", frame)
    picture = Image.open(harness.folder / "staging" / file.staged).convert("RGB")
    seen = {picture.getpixel((x, y)) for x in range(16) for y in range(16)}
    assert len(seen) == 1
    return seen.pop()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("scene", "at", "frame", "expected"),
    [
        ("drive_absolute", DRIVE, 1, RED),
        ("unc_absolute", UNC, 1, RED),
        ("moved_absolute", MOVED, 1, RED),
        ("drive_nested", DRIVE, 1, GREEN),
        ("unc_nested", UNC, 1, GREEN),
        ("moved_nested", MOVED, 1, GREEN),
        ("relative", DRIVE, 1, BLUE),
        ("relative", UNC, 1, BLUE),
        ("relative", POSIX, 1, BLUE),
        ("relative", "//usr/share/proj", 1, BLUE),
        ("case", DRIVE, 1, BLUE),
        ("case", POSIX, 1, BLUE),
        ("row", DRIVE, 2, GREEN),
        ("row", POSIX, 3, BLUE),
        ("tiles", DRIVE, 1, BLUE),
        ("tiles", MOVED, 1, BLUE),
    ],
)
def test_the_picture_has_the_colour_of_the_texture(
    harness: BlenderHarness,
    path_scenes: Path,
    scene: str,
    at: str,
    frame: int,
    expected: tuple[int, int, int],
) -> None:
    layout = lay_out(inputs_of(path_scenes, at), harness.folder / "tree")
    blender = harness.start(scene, layout=layout, at=at)
    blender.open_scene()
    blender.render(frame)
    assert [(w.code, w.subject) for w in harness.opened().warnings] == []
    assert colour(harness, frame) == expected


@pytest.mark.parametrize("at", [DRIVE, UNC, POSIX])
def test_libraries_named_in_other_cases_are_found_by_their_aliases(
    harness: BlenderHarness, path_scenes: Path, at: str
) -> None:
    inputs = inputs_of(path_scenes, at)
    for alias, real in ALIASES.items():
        [item] = [i for i in inputs if i.path == f"{at}/{real}"]
        inputs.append(msgspec.structs.replace(item, path=f"{at}/{alias}"))
    blender = harness.start("cased_nested", layout=lay_out(inputs, harness.folder / "tree"), at=at)
    blender.open_scene()
    blender.render(1)
    assert harness.opened().warnings == ()
    assert colour(harness, 1) == GREEN


@pytest.mark.parametrize(
    ("scene", "at", "known_as"),
    [
        ("drive_absolute", DRIVE, "C:/proj/tex/red.png"),
        ("drive_absolute", POSIX, "C:/proj/tex/red.png"),
        ("unc_absolute", UNC, "//server/share/proj/tex/red.png"),
        ("moved_absolute", MOVED, "/etc/proj/tex/red.png"),
    ],
)
def test_a_missing_texture_is_named_as_the_artist_knows_it(
    harness: BlenderHarness, path_scenes: Path, scene: str, at: str, known_as: str
) -> None:
    inputs = [i for i in inputs_of(path_scenes, at) if not i.path.endswith("red.png")]
    blender = harness.start(scene, layout=lay_out(inputs, harness.folder / "tree"), at=at)
    blender.open_scene()
    blender.render(1)
    assert [(w.code, w.subject) for w in harness.opened().warnings] == [("missing_file", known_as)]
    assert colour(harness, 1) == NONE
