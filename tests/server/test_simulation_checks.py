"""A scene's simulations against the job's frames and its uploaded files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from framefarm.core.frames import FrameSet
from framefarm.server.files.scene_reader import Scene, Simulation
from framefarm.server.submission.simulations import Simulated, check

FOLDER = "/film/zone bake/17/meta"


def checked(
    frames: str,
    unbaked: list[Simulation] | None = None,
    baked: list[Simulation] | None = None,
    uploaded: list[str] | None = None,
) -> Simulated:
    scene = Scene(
        name="Scene", is_active=True, frame_start=1, frame_current=1, frame_end=20, frame_step=1, fps=24.0,
        engine="CYCLES", format="PNG", is_movie=False, camera="Camera", cameras=["Camera"],
        view_layers=["ViewLayer"], resolution_x=64, resolution_y=64, resolution_percentage=100, samples=1,
        unbaked_simulations=unbaked or [], baked_simulations=baked or [],
    )  # fmt: skip
    return check(scene, FrameSet.from_text(frames), "/film/shot 1.blend", uploaded or [])


def zone() -> Simulation:
    return Simulation("Zone", "geometry_nodes", "Nodes", 1, 20, folders=["//zone bake/17"])


def test_a_bake_whose_files_were_not_sent_is_played() -> None:
    simulated = checked("1-9", baked=[zone()], uploaded=["/film/zone bake/17/blobs/00001_000.blob"])
    [warning] = simulated.warnings
    assert (warning["code"], simulated.hold) == ("unbaked_simulation", False)
    assert "geometry nodes of Zone (modifier Nodes)" in warning["message"]
    assert simulated.scene.unbaked_simulations == [zone()]
    assert simulated.scene.baked_simulations == []


def test_a_bake_is_as_long_as_its_files() -> None:
    files = [f"{FOLDER}/{number:05d}_00000.json" for number in range(1, 7)]
    assert checked("1-6", baked=[zone()], uploaded=files).warnings == []
    [warning] = checked("1-9x4", baked=[zone()], uploaded=files).warnings
    assert warning["code"] == "bake_too_short"
    assert "frames 9 of the job" in warning["message"]
    assert "cache frames 1 to 6" in warning["message"]


@pytest.mark.parametrize("frames", ["1", "-3-1"])
def test_frames_up_to_the_scenes_first_one_need_no_bake(frames: str) -> None:
    simulated = checked(frames, [Simulation("Cloud", "particles", "Snow", 1, 20, "particles")])
    assert (simulated.warnings, simulated.hold) == ([], False)


def test_a_scene_in_a_strip_may_be_anywhere_in_its_range() -> None:
    simulated = checked("1", [Simulation("Flag", "cloth", "Cloth", 1, 20, "other_scene")])
    assert simulated.hold
    assert "another scene" in simulated.warnings[0]["message"]


def test_each_simulation_that_must_be_baked_is_named_and_the_rest_in_one_line() -> None:
    unbaked = [Simulation(f"Cloud {n}", "particles", "Snow", 1, 20, "particles") for n in range(3)]
    unbaked += [Simulation(f"Flag {n}", "cloth", "Cloth", 1, 20) for n in range(8)]
    simulated = checked("5-9", unbaked)
    assert [w["subject"] for w in simulated.warnings[:3]] == [f"Cloud {n}: Snow" for n in range(3)]
    [played] = simulated.warnings[3:]
    assert "Flag 4" in played["message"] and "Flag 5" not in played["message"]
    assert "and 3 more" in played["message"] and "up to 9 frames" in played["message"]


def test_files_of_bakes_are_gone_through_once_for_all_of_them() -> None:
    gone_through = 0

    class Counted(list[str]):
        def __iter__(self) -> Iterator[str]:
            nonlocal gone_through
            gone_through += 1
            return super().__iter__()

    baked = [replace(zone(), folders=[f"//bake {n}/17"]) for n in range(50)]
    files = Counted(f"/film/bake {n}/17/meta/{f:05d}_00000.json" for n in range(50) for f in range(1, 10))
    assert checked("1-9", baked=baked, uploaded=files).warnings == []
    assert gone_through == 1
