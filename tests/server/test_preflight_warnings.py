"""Warnings and failures of a job before any machine starts, from real scenes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient

from framefarm.core.failure_codes import CAUSES
from framefarm.node import blender_installs
from framefarm.server.catalog.tables import packages
from framefarm.server.jobs.failures import Unrenderable
from framefarm.server.jobs.records import SceneRecord
from framefarm.server.jobs.tables import jobs
from framefarm.server.submission import scene_reading
from framefarm.server.submission.scene_reading import UnreadJob

pytestmark = pytest.mark.blender


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of Blender 4.2: `scenes.blend` with several, `simulations.blend` with unbaked ones."""
    blender = next(b for b in blender_installs.installed() if b.id == "blender-4-2")
    folder = tmp_path_factory.mktemp("scenes")
    script = Path(__file__).with_name("scenes_to_read.py")
    subprocess.run([blender.path, str(script), str(folder)], check=True, capture_output=True, timeout=120)
    return folder


def job_of(
    site: ApiClient, files: dict[str, bytes], *, allow_scripts: bool = False, **more: Any
) -> UnreadJob:
    """A submitted job whose scene is not read yet."""
    for path, data in files.items():
        assert site.upload(path, data).status_code == 200
    answer = site.ask("POST", "/api/jobs", json=site.payload(upload_paths=list(files), **more))
    assert answer.status_code == 201, answer.text
    job = site.row(jobs, jobs.c.id == answer.json()["id"])
    package = site.row(packages, packages.c.id == job["package_id"])
    lacks = package["lacks"]
    return UnreadJob(**job, release=package["release"], lacks=lacks, allow_scripts=allow_scripts)


def refused(site: ApiClient, files: dict[str, bytes], **more: Any) -> Unrenderable:
    job = job_of(site, files, **more)
    with pytest.raises(Unrenderable) as refusal:
        scene_reading.read_scene(site.context, job)
    site.context.db.write_now(scene_reading.fail_job, job, refusal.value)
    shown = site.get(f"/api/jobs/{job.id}")
    assert (shown["status"], shown["cause"]) == ("failed", refusal.value.cause)
    assert shown["message" if "message" in shown else "reason"] == refusal.value.message
    return refusal.value


def test_unreadable_scene_fails_the_job(site: ApiClient, made: Path) -> None:
    content = (made / "scenes.blend").read_bytes()
    error = refused(site, {"/film/a.blend": content[: len(content) // 2]})
    assert error.cause == "unreadable_scene" and "a.blend" in error.message


def test_newer_file_fails_the_job_with_both_versions(site: ApiClient, made: Path) -> None:
    content = (made / "scenes.blend").read_bytes()
    assert content.startswith(b"BLENDER-v402")
    error = refused(site, {"/film/a.blend": content.replace(b"v402", b"v405", 1)})
    assert error.cause == "newer_file"
    assert "4.5" in error.message and "4.2.23" in error.message
    assert error.message.endswith(CAUSES["newer_file"].remedy)


def test_unknown_scene_fails_the_job_and_names_the_scenes_of_the_file(site: ApiClient, made: Path) -> None:
    error = refused(site, {"/film/a.blend": (made / "scenes.blend").read_bytes()}, scene="Nope")
    assert error.cause == "unknown_scene" and "Shot" in error.message


@pytest.mark.parametrize(
    ("fields", "cause", "has"),
    [
        ({"camera": "Nope"}, "unknown_camera", "Main, Side"),
        ({"view_layers": ["Glow", "Nope"]}, "unknown_view_layer", "ViewLayer, Glow"),
    ],
)
def test_an_unknown_camera_or_view_layer_fails_the_job_before_a_machine_is_paid(
    site: ApiClient, made: Path, fields: dict[str, Any], cause: str, has: str
) -> None:
    content = (made / "scenes.blend").read_bytes()
    error = refused(site, {"/film/a.blend": content}, **fields)
    assert error.cause == cause and f"'Nope'; it has: {has}" in error.message


@pytest.mark.parametrize(
    ("fields", "scripts"),
    [
        ({"camera": "Side", "view_layers": ["Glow"]}, False),
        ({"camera": "Hidden"}, False),
        ({"camera": "Nope", "view_layers": ["Nope"]}, True),
    ],
    ids=["there", "in-a-hidden-collection", "a-script-may-make-it"],
)
def test_a_camera_that_may_exist_is_left_to_blender(
    site: ApiClient, made: Path, fields: dict[str, Any], scripts: bool
) -> None:
    content = (made / "scenes.blend").read_bytes()
    scene_reading.read_scene(
        site.context, job_of(site, {"/film/a.blend": content}, allow_scripts=scripts, **fields)
    )


def test_a_camera_of_a_library_is_left_to_blender(site: ApiClient, made: Path) -> None:
    paths = {f"/film/{name}": (made / name).read_bytes() for name in ("dependencies.blend", "library.blend")}
    job = job_of(site, paths, camera="Nope", scene_path="/film/dependencies.blend")
    scene_reading.read_scene(site.context, job)


def test_current_is_the_frame_that_the_scene_was_saved_at(site: ApiClient, made: Path) -> None:
    job = job_of(site, {"/film/a.blend": (made / "scenes.blend").read_bytes()}, frame_range="current")
    record = scene_reading.read_scene(site.context, job)
    assert list(record.frames) == [record.scene["frame_current"]] == [7]


def test_bad_frames_fail_the_job(site: ApiClient, made: Path) -> None:
    content = (made / "scenes.blend").read_bytes()
    error = refused(site, {"/film/a.blend": content}, frame_range="auto:3", scout_frames="9999")
    assert error.cause == "bad_frames"


def read_simulation(site: ApiClient, made: Path, scene: str, frames: str = "1-5") -> SceneRecord:
    content = (made / "simulations.blend").read_bytes()
    job = job_of(site, {"/film/a.blend": content}, scene=scene, frame_range=frames)
    return scene_reading.read_scene(site.context, job)


def test_unbaked_simulation_is_a_warning_with_its_cache_and_its_cost(site: ApiClient, made: Path) -> None:
    record = read_simulation(site, made, "cloth")
    [warning] = record.warnings
    assert warning["code"] == "unbaked_simulation"
    assert "cloth of cloth (modifier m), cache frames 1 to 5" in warning["message"]
    assert "up to 5 frames" in warning["message"]
    assert not record.hold


def test_simulation_must_be_baked_holds_the_job(site: ApiClient, made: Path) -> None:
    record = read_simulation(site, made, "particles")
    [warning] = record.warnings
    assert (warning["code"], warning["subject"]) == ("simulation_must_be_baked", "particles: m")
    assert "particles of particles (modifier m), cache frames 1 to " in warning["message"]
    assert record.hold


@pytest.mark.parametrize("scene", ["cloth", "particles"])
def test_the_scenes_first_frame_needs_no_bake(site: ApiClient, made: Path, scene: str) -> None:
    record = read_simulation(site, made, scene, "1")
    assert (record.warnings, record.hold) == ([], False)


def test_bake_too_short(site: ApiClient, made: Path) -> None:
    assert read_simulation(site, made, "cloth baked").warnings == []
    [warning] = read_simulation(site, made, "cloth baked", "1-9").warnings
    assert warning["code"] == "bake_too_short"
    assert "frames 6-9" in warning["message"]
    assert "cloth of cloth baked (modifier m), cache frames 1 to 5" in warning["message"]


def test_scene_guessed_is_a_warning_that_names_it(site: ApiClient, made: Path) -> None:
    content = (made / "scenes.blend").read_bytes()
    job = job_of(site, {"/film/a.blend": content, "/film/b.blend": content})
    warning = next(
        w for w in scene_reading.read_scene(site.context, job).warnings if w["code"] == "scene_guessed"
    )
    assert warning["subject"] == "/film/a.blend"


def warnings_of_the_second(site: ApiClient, **more: Any) -> dict[str, str]:
    first = site.submit(**more)
    answer = site.ask("POST", "/api/jobs", json=site.payload(**more))
    assert answer.status_code == 201
    assert first["id"] != answer.json()["id"]
    return {w["code"]: w["subject"] for w in site.get(f"/api/jobs/{answer.json()['id']}")["warnings"]}


def test_input_not_reconfirmed_is_a_warning(site: ApiClient) -> None:
    assert warnings_of_the_second(site) == {"input_not_reconfirmed": "/film/shot.blend"}


def test_output_shared_is_a_warning(site: ApiClient) -> None:
    assert "output_shared" in warnings_of_the_second(site, output_path="out/same")
