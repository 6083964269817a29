"""Names of a scene, its cameras and layers are checked before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefarm.cli.submit import as_folder
from framefarm.client import LocalProblem, dependencies, scene_process
from framefarm.client.scene_facts import SceneFacts

FACTS = SceneFacts(
    (4, 2), "Shot", {"Shot": (1, 9, 1), "Edit": (1, 2, 1)}, {"Shot": 7, "Edit": 2},
    {"Shot": ("ViewLayer",), "Edit": ("A", "B")}, ("Camera", "Über: cam"), True,
)  # fmt: skip


def checked(
    scene: str | None = None, camera: str | None = None, layers: tuple[str, ...] = (), addons: bool = False
) -> None:
    FACTS.check_names(scene, camera, layers, with_addons=addons)


def test_names_of_the_file_are_accepted_also_a_camera_of_another_scene() -> None:
    checked()
    checked("Edit", "Über: cam", ("B",))
    checked(None, "Camera", ("ViewLayer",))


@pytest.mark.parametrize(
    ("scene", "camera", "layers", "told"),
    [
        ("Nope", None, (), "it has Edit, Shot"),
        ("", None, (), "it has Edit, Shot"),
        ("Edit", "cam", (), "it has Camera, Über: cam"),
        (None, "", (), "it has Camera"),
        (None, None, ("A",), "it has ViewLayer"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(
    scene: str | None, camera: str | None, layers: tuple[str, ...], told: str
) -> None:
    with pytest.raises(LocalProblem, match=told):
        checked(scene, camera, layers)


def test_what_an_addon_or_a_library_may_bring_is_left_to_blender() -> None:
    checked(None, "Of the add-on", ("New",), addons=True)
    linking = SceneFacts((4, 2), "Shot", FACTS.ranges, cameras=(), complete=False)
    linking.check_names(None, "Of the library", ("New",), with_addons=False)
    with pytest.raises(LocalProblem):
        linking.check_names("Nope", None, (), with_addons=False)


def test_current_is_the_number_of_the_scenes_own_frame() -> None:
    assert FACTS.frame_range(None, " current ") == "7"
    assert FACTS.frame_range("Edit", "current") == "2"
    assert FACTS.frame_range("Edit", "fml:3") == "fml:3"
    assert FACTS.frame_range() == "1-9"


@pytest.mark.blender
def test_cameras_layers_and_frames_are_read_from_a_blend(blends: Path) -> None:
    facts = dependencies.read_scene(blends / "no_libraries.blend")
    assert facts == scene_process.read_scene(blends / "no_libraries.blend")
    assert facts.cameras == ("Über: cam",) and facts.complete
    assert facts.current["Shot"] == 7 and facts.view_layers["Shot"] == ("ViewLayer",)
    assert not dependencies.read_scene(blends / "shot.blend").complete


@pytest.mark.parametrize("name", ['Shot 12: "dusk"?', "shot#1", "a\\b", " .x. ", "?"])
def test_the_default_output_folder_has_no_character_that_the_farm_refuses(name: str) -> None:
    folder = as_folder(name)
    assert folder and not set(folder) & set("\\:?#/")
    assert folder == folder.strip(" .")
