"""Which Blender fits a scene, and what is said where none does."""

from __future__ import annotations

import pytest

from framefarm.core.failure_codes import CAUSES, explain
from framefarm.core.scene_fitness import Offer, SavedScene, advice, best, findings, fits, stand_in

FLUID = "fluid_simulation"
WHEELS = [
    Offer("blender-5-0", "5.0.1", frozenset({FLUID})),
    Offer("blender-4-5", "4.5.15", frozenset({FLUID})),
    Offer("blender-4-2", "4.2.23", frozenset({FLUID})),
]
ARCHIVE = Offer("blender-4-2-archive", "4.2.22")


def saved(version: str = "4.2", engine: str = "CYCLES", *needs: str) -> SavedScene:
    return SavedScene("shot.blend", version, "Shot", engine, {need: f"{need} of Cube" for need in needs})


def codes(scene: SavedScene, offer: Offer, *, chosen: bool = False, code: bool = False) -> dict[str, bool]:
    """Code → whether it holds the job; each sentence is whole."""
    found = findings(scene, offer, WHEELS, engine_chosen=chosen, brings_code=code)
    assert all("{" not in explain(f.code, f.facts) and CAUSES[f.code].warning for f in found)
    return {f.code: f.holds for f in found}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.79", "blender-4-2"), ("4.2", "blender-4-2"), ("4.3", "blender-4-5"), ("4.5", "blender-4-5"),
     ("5.0", "blender-5-0"), ("5.1", None)],
)  # fmt: skip
def test_the_blender_that_fits_is_of_the_files_series_or_the_oldest_newer_one(
    version: str, expected: str | None
) -> None:
    found = best(WHEELS, saved(version))
    assert (found.id if found else None) == expected
    assert (expected or f"Blender {version}") in advice(WHEELS, saved(version))


def test_of_two_releases_of_a_series_the_newer_one_fits_best() -> None:
    assert best([ARCHIVE, WHEELS[2]], saved()) == WHEELS[2]
    assert best([ARCHIVE, WHEELS[2]], saved("4.2", "CYCLES", FLUID)) == ARCHIVE


def test_a_blender_with_the_feature_stands_in_for_one_of_its_series_without_it() -> None:
    scene = saved("4.2", "CYCLES", FLUID)
    assert stand_in([*WHEELS, ARCHIVE], WHEELS[2], scene, "4.2") == ARCHIVE
    assert stand_in([*WHEELS, ARCHIVE], WHEELS[1], scene, "4.5") is None  # another series
    assert stand_in([*WHEELS, ARCHIVE], WHEELS[2], saved(), "4.2") is None
    assert stand_in([*WHEELS, ARCHIVE], WHEELS[2], scene, "blender-4-2") == ARCHIVE
    assert stand_in([*WHEELS, ARCHIVE], WHEELS[2], scene, "4.2.23") is None  # an exact release
    assert not fits(WHEELS[2], scene) and fits(ARCHIVE, scene)


def test_a_scene_of_today_is_warned_of_nothing() -> None:
    for engine in ("CYCLES", "BLENDER_EEVEE_NEXT", "BLENDER_WORKBENCH"):
        assert codes(saved("4.2", engine), WHEELS[2]) == {}
    assert codes(saved("5.0", "BLENDER_EEVEE"), WHEELS[0]) == {}


@pytest.mark.parametrize(
    ("version", "engine", "expected"),
    [
        ("2.79", "BLENDER_RENDER", {"engine_replaced": True, "old_file": False}),
        ("2.80", "BLENDER_RENDER", {"engine_replaced": True}),
        ("2.79", "CYCLES", {"old_file": False}),
        ("2.80", "BLENDER_EEVEE", {"eevee_changed": False}),
        ("3.6", "BLENDER_EEVEE", {"eevee_changed": False}),
        ("4.2", "LUXCORE", {"engine_replaced": True}),
        ("4.2", "", {"engine_replaced": True}),
    ],
)
def test_an_engine_that_this_blender_lacks_or_has_changed_is_told(
    version: str, engine: str, expected: dict[str, bool]
) -> None:
    assert codes(saved(version, engine), WHEELS[2]) == expected
    kept = {code: holds for code, holds in expected.items() if code == "old_file"}
    assert codes(saved(version, engine), WHEELS[2], chosen=True) == kept


def test_an_add_on_may_bring_an_engine_but_not_blender_internal() -> None:
    assert codes(saved("4.2", "LUXCORE"), WHEELS[2], code=True) == {}
    assert "engine_replaced" in codes(saved("4.2", "BLENDER_RENDER"), WHEELS[2], code=True)


def test_a_feature_that_the_blender_lacks_holds_the_job_and_baking_is_no_remedy() -> None:
    scene = saved("4.2", "CYCLES", FLUID, "cycles")
    assert codes(scene, WHEELS[2]) == {"feature_lacking": True}
    assert codes(scene, ARCHIVE) == {}
    [found] = findings(scene, WHEELS[2], [*WHEELS, ARCHIVE], engine_chosen=False, brings_code=False)
    text = explain(found.code, found.facts)
    assert "fluids" in text and "blender-4-2-archive fits" in text and "bake" not in text.lower()
