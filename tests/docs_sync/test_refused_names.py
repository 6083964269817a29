"""Variables that a job may not set: exactly those of docs/security.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from framefarm.protocol.api_jobs import REFUSED_NAMES, REFUSED_PREFIXES, is_refused

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"


def documented() -> list[str]:
    line = re.search(r"^Refused names: `([^`]+)`", SECURITY.read_text(), re.MULTILINE)
    assert line is not None
    return line[1].split()


def test_the_documented_names_are_the_refused_ones() -> None:
    own = {f"{p}*" for p in REFUSED_PREFIXES} | REFUSED_NAMES | {"*_PROXY"}
    assert set(documented()) == own


@pytest.mark.parametrize("pattern", documented())
def test_a_documented_name_is_refused_in_any_case(pattern: str) -> None:
    name = pattern.replace("*", "X")
    assert is_refused(name) and is_refused(name.lower())
    assert not is_refused(f"MY_{pattern.strip('*')}_OWN")
