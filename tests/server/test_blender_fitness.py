"""A Blender that does not fit a scene is told, or replaced, before a machine starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient
from msgspec.structs import replace
from test_preflight_warnings import job_of, made, refused

from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.tables import packages
from framefarm.server.files.scene_reader import OtherScene, read_scenes
from framefarm.server.jobs.records import SceneRecord
from framefarm.server.submission import fitness, scene_reading

pytestmark = pytest.mark.blender
__all__ = ["made"]


def record(site: ApiClient, content: bytes, **more: Any) -> SceneRecord:
    """The job's scene, read and recorded as the farm does."""
    job = job_of(site, {"/film/a.blend": content}, **more)
    offers = fitness.offers_of(site.context.db.read_now(catalog.list_packages))
    read = scene_reading.read_scene(site.context, job, offers)
    site.context.db.write_now(scene_reading.record_scene, job, read)
    return read


def codes(read: SceneRecord) -> list[str]:
    return [w["code"] for w in read.warnings]


def saved_by(content: bytes, version: bytes, engine: bytes = b"") -> bytes:
    """The file as if another Blender had saved it, with another engine of its active scene."""
    assert content[9:12] == b"402"
    at = content.index(b"CYCLES\0")
    named = content[:at] + engine.ljust(32, b"\0") + content[at + 32 :] if engine else content
    return named[:9] + version + named[12:]


def lacking(site: ApiClient, id: str, *features: str) -> None:
    change = sa.update(packages).where(packages.c.id == id).values(lacks=list(features))
    site.context.db.write_now(lambda tx: tx.conn.execute(change))


@pytest.mark.parametrize("version", [b"279", b"280"])
def test_engine_replaced_holds_a_scene_of_blender_internal(
    site: ApiClient, made: Path, version: bytes
) -> None:
    content = saved_by((made / "scenes.blend").read_bytes(), version, b"BLENDER_RENDER")
    read = record(site, content, render_software="")
    assert "engine_replaced" in codes(read) and read.hold
    assert "Blender Internal (BLENDER_RENDER)" in read.warnings[0]["message"]
    chosen = record(site, content, render_software="cycles")
    assert "engine_replaced" not in codes(chosen) and not chosen.hold


def test_old_file_is_a_warning(site: ApiClient, made: Path) -> None:
    read = record(site, saved_by((made / "scenes.blend").read_bytes(), b"279"))
    assert "old_file" in codes(read) and not read.hold


def test_eevee_changed_is_a_warning(site: ApiClient, made: Path) -> None:
    content = saved_by((made / "scenes.blend").read_bytes(), b"306", b"BLENDER_EEVEE")
    read = record(site, content, render_software="")
    assert "eevee_changed" in codes(read) and not read.hold


def test_newer_file_names_the_package_that_fits(site: ApiClient, made: Path) -> None:
    content = saved_by((made / "scenes.blend").read_bytes(), b"499")
    assert refused(site, {"/film/a.blend": content}).cause == "newer_file"
    job = job_of(site, {"/film/a.blend": content})
    with pytest.raises(scene_reading.Unrenderable) as refusal:
        offers = [fitness.Offer("blender-4-2", "4.2.23"), fitness.Offer("blender-5-0", "5.0.1")]
        scene_reading.read_scene(site.context, job, offers)
    assert "blender-5-0 fits" in refusal.value.message


def test_feature_lacking_holds_a_scene_with_fluids(site: ApiClient, made: Path) -> None:
    lacking(site, "blender-4-2", "fluid_simulation")
    content = (made / "simulations.blend").read_bytes()
    read = record(site, content, scene="fluid")
    assert "feature_lacking" in codes(read) and read.hold
    said = " ".join(w["message"] for w in read.warnings)
    assert "fluid m of fluid" in said and "--archive" in said and "bake" not in said.lower()
    other = record(site, content, scene="rigid")
    assert "feature_lacking" not in codes(other) and not other.hold


def test_package_switched_to_one_of_the_series_that_has_the_feature(site: ApiClient, made: Path) -> None:
    lacking(site, "blender-4-2", "fluid_simulation")
    wheel = site.row(packages, packages.c.id == "blender-4-2")
    archive = dict(wheel) | {
        "id": "blender-4-2-archive",
        "release": "4.2.20",
        "lacks": [],
        "is_default": False,
    }
    site.context.db.write_now(lambda tx: tx.conn.execute(sa.insert(packages).values(archive)))
    content = (made / "simulations.blend").read_bytes()
    read = record(site, content, scene="fluid", blender_version="4.2")
    assert read.package_id == "blender-4-2-archive"
    assert "package_switched" in codes(read) and "feature_lacking" not in codes(read)
    exact = record(site, content, scene="fluid", blender_version=wheel["release"])
    assert exact.package_id is None and exact.hold and "feature_lacking" in codes(exact)


@pytest.mark.parametrize("scene", ["marked", "cut", "composed"])
def test_a_scene_without_a_camera_that_has_a_picture_is_left_to_blender(
    site: ApiClient, made: Path, scene: str
) -> None:
    record(site, (made / "without_camera.blend").read_bytes(), scene=scene)


def test_no_camera_fails_the_job_before_a_machine_starts(site: ApiClient, made: Path) -> None:
    content = (made / "without_camera.blend").read_bytes()
    assert refused(site, {"/film/a.blend": content}, scene="none").cause == "no_camera"
    record(site, content, scene="none", camera="not chosen")
    job = job_of(site, {"/film/a.blend": content}, scene="none", allow_scripts=True)
    scene_reading.read_scene(site.context, job)


def test_other_scenes_that_do_not_fit_are_told_within_bounds(made: Path) -> None:
    [facts] = read_scenes([("/film/a.blend", made / "scenes.blend")])
    scene = facts.scene()
    assert scene is not None
    others = [OtherScene(f"Other {number}", "SOME_ENGINE") for number in range(100_000)]
    scene = replace(scene, renders=others)
    asked = fitness.Offer("blender-4-2", "4.2.23")
    fit = fitness.check(facts, scene, asked, [asked], request="4.2", engine_chosen=False, brings_code=False)
    assert 10 < len(fit.warnings) < 50 and fit.hold
