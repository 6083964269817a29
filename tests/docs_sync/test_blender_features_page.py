"""The table of features in docs/blenders.md against the code, and the tries of each."""

from __future__ import annotations

import re
from pathlib import Path

from framefarm.core.blender_features import Feature, sentence

ROOT = Path(__file__).parents[2]


def test_the_page_has_each_feature_with_its_sentence() -> None:
    page = (ROOT / "docs" / "blenders.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.+) \|$", page, re.MULTILINE)
    assert dict(rows) == {feature.value: sentence(feature) for feature in Feature}


def test_each_feature_is_tried() -> None:
    source = (ROOT / "src/framefarm/node/in_blender/features.py").read_text()
    checks = source.split("\nCHECKS = {\n")[1]
    assert re.findall(r'^    "([a-z0-9_]+)":', checks, re.MULTILINE) == list(Feature)
