"""Blender's names."""

from __future__ import annotations

import pytest

from framefarm.core import packages
from framefarm.core.errors import InvalidInput

RELEASES = ["4.2.9", "4.2.23", "4.2.0", "4.5.1", "4.10.0"]


@pytest.mark.parametrize(
    ("text", "package", "shown"),
    [
        ("4.2", "blender-4-2", "4.2"),
        ("4.2.23", "blender-4-2", "4.2.23"),
        ("blender-4-2", "blender-4-2", "4.2"),
        ("Blender 4.2", "blender-4-2", "4.2"),
        ("blender-4.2.23", "blender-4-2", "4.2.23"),
        ("v2.79", "blender-2-79", "2.79"),
        (" 5.0 ", "blender-5-0", "5.0"),
    ],
)
def test_a_version_is_understood_in_the_ways_people_write_it(text: str, package: str, shown: str) -> None:
    wanted = packages.parse_version(text)
    assert (wanted.series.package_id, str(wanted)) == (package, shown)


@pytest.mark.parametrize("text", ["", "4", "latest", "4.2.1.1", "4.x", "-4.2", "4..2", "٤.٢x"])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"4\.2, 4\.2\.23 or blender-4-2"):
        packages.parse_version(text)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("4.2", "4.2.23"), ("4.2.9", "4.2.9"), ("4.2.7", None), ("4.3", None), ("4.10", "4.10.0")],
)
def test_the_newest_release_is_chosen_by_number_not_by_letters(wanted: str, found: str | None) -> None:
    assert packages.newest(packages.parse_version(wanted), RELEASES) == found


@pytest.mark.parametrize(
    ("file", "release", "good"),
    [
        ("4.2", "4.2.0", True),
        ("2.79", "4.2.23", True),
        ("5.0", "4.2.23", False),
        ("4.5", "4.2.23", False),
        ("4.10", "4.9.0", False),
        ("4.9", "4.10.0", True),
    ],
)
def test_a_blender_is_not_trusted_with_files_of_a_newer_series(file: str, release: str, good: bool) -> None:
    assert packages.can_open(file, release) is good


def test_a_release_is_ordered_by_its_numbers_and_may_have_words_after_them() -> None:
    assert packages.release_key("4.2.23 LTS") == (4, 2, 23)
    assert packages.release_key("4.2") == (4, 2, 0)
    for text in ("", "LTS 4.2", "4", "latest"):
        with pytest.raises(ValueError, match="not a Blender release"):
            packages.release_key(text)
