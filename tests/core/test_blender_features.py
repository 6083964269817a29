"""The features that a Blender may lack."""

from __future__ import annotations

import pytest

from framefarm.core.blender_features import LACKED_BY_EVERY_WHEEL, Feature, known, lacking, sentence


def test_each_feature_has_a_sentence() -> None:
    assert all(sentence(feature).startswith("It") for feature in Feature)


def test_codes_are_put_in_order_and_unknown_ones_left_out() -> None:
    assert known(["usd", "later_feature", "ocean"]) == (Feature.OCEAN, Feature.USD)


@pytest.mark.parametrize(
    ("kind", "tried", "lacks"),
    [
        ("bpy", None, LACKED_BY_EVERY_WHEEL),
        ("bpy", [], ()),
        ("bpy", ["usd"], (Feature.USD,)),
        ("executable", None, None),
        ("executable", ["fluid_simulation"], (Feature.FLUID_SIMULATION,)),
    ],
)
def test_a_package_that_was_never_tried_lacks_as_all_of_its_kind_do(
    kind: str, tried: list[str] | None, lacks: tuple[Feature, ...] | None
) -> None:
    assert lacking(kind, tried) == lacks
