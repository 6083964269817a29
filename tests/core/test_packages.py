"""Blender's names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core import packages
from framefarm.core.errors import InvalidInput
from framefarm.core.packages import Series

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
    wanted = packages.parse_wanted(text)
    assert (wanted.series.package_id, str(wanted)) == (package, shown)


@pytest.mark.parametrize("text", ["", "4", "latest", "4.2.1.1", "4.x", "-4.2", "4..2", "٤.٢x"])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"4\.2, 4\.2\.23 or blender-4-2"):
        packages.parse_wanted(text)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("4.2", "4.2.23"), ("4.2.9", "4.2.9"), ("4.2.7", None), ("4.3", None), ("4.10", "4.10.0")],
)
def test_the_newest_release_is_chosen_by_number_not_by_letters(wanted: str, found: str | None) -> None:
    assert packages.newest(packages.parse_wanted(wanted), RELEASES) == found


@pytest.mark.parametrize(
    ("number", "series"),
    [
        (402, Series(4, 2)),
        (279, Series(2, 79)),
        (500, Series(5, 0)),
        (410, Series(4, 10)),
        (299, Series(2, 99)),
    ],
)
def test_a_headers_number_names_a_series(number: int, series: Series) -> None:
    assert packages.series_of_file(number) == series


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
    assert packages.opens(file, release) is good


def test_a_release_is_ordered_by_its_numbers_and_may_have_words_after_them() -> None:
    assert packages.release_key("4.2.23 LTS") == (4, 2, 23)
    assert packages.release_key("4.2") == (4, 2, 0)
    assert not packages.is_newer("4.2", "4.2.0") and not packages.is_newer("4.2.0", "4.2")
    for text in ("", "LTS 4.2", "4", "latest"):
        with pytest.raises(ValueError, match="not a Blender release"):
            packages.release_key(text)


@given(*(st.tuples(*(st.integers(0, 40),) * 3),) * 2)
def test_newer_is_the_order_of_the_numbers(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    one, other = (".".join(map(str, numbers)) for numbers in (a, b))
    assert packages.is_newer(one, other) is (a > b)
    assert packages.package_id(one) == f"blender-{a[0]}-{a[1]}"
