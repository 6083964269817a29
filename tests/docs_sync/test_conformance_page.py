"""docs/conformance.md has a row for each scene, a section for each feature, a reason for each difference."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "conformance"))

import declarations  # noqa: E402

PAGE = (ROOT / "docs" / "conformance.md").read_text()
ROW = re.compile(r"^\| `([^`]+/[^`]+)` \| (.+?) \|", re.MULTILINE)
SCENES = declarations.declared()


def test_the_page_has_a_row_for_each_scene() -> None:
    assert [name for name, _ in ROW.findall(PAGE)] == [scene.id for scene in SCENES], (
        "write the tables again: script/conformance --table"
    )


def test_the_page_has_a_section_for_each_feature() -> None:
    sections = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)
    assert set(sections) >= {scene.feature for scene in SCENES}


def test_every_engine_and_some_150_scenes_are_declared() -> None:
    assert len(SCENES) >= 150
    assert {scene.engine for scene in SCENES} == {"cycles", "eevee", "workbench"}


def test_every_tolerance_and_difference_has_a_reason() -> None:
    assert [scene.id for scene in SCENES if scene.tolerance and not scene.reason] == []
    explained = re.search(r"## Differences\n(.*?)\n## ", PAGE, re.DOTALL)
    assert explained is not None
    assert "not explained yet" not in explained[1] or "**wrong**" in PAGE


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene.quick], ids=lambda scene: scene.id)
def test_the_short_part_is_for_the_blender_of_the_tests(scene: declarations.Scene) -> None:
    assert scene.applies("4.2") and scene.engine == "cycles" and not scene.made_by
