"""Paths from people's machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.paths import check_all, normalise, relative_parts


@pytest.mark.parametrize(
    ("given_path", "kind", "text"),
    [
        ("/a/b.blend", "posix", "/a/b.blend"),
        ("/a//./b", "posix", "/a/b"),
        ("c:\\a\\b.blend", "drive", "C:/a/b.blend"),
        ("C:/a/b", "drive", "C:/a/b"),
        ("\\\\srv\\share\\x", "unc", "//srv/share/x"),
    ],
)
def test_paths_are_normalised(given_path: str, kind: str, text: str) -> None:
    path = normalise(given_path)
    assert (path.kind, path.text) == (kind, text)


@pytest.mark.parametrize(
    "path", ["", "a/b", "/a/../b", "/a/", "/", "/a\x00b", "/a\nb", "/" + "x" * 256, "~/a"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        normalise(path)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5))
def test_normalising_twice_changes_nothing(parts: list[str]) -> None:
    try:
        once = normalise("/" + "/".join(parts))
    except ValueError:
        return
    assert normalise(once.text) == once


@pytest.mark.parametrize("paths", [["/a/b", "/a//b"], ["/a", "/a/b"], ["C:/A/x", "c:/a/X"], ["/a", "b"], []])
def test_a_jobs_paths_must_fit_together(paths: list[str]) -> None:
    assert check_all(paths)


def test_case_matters_on_posix_alone() -> None:
    assert check_all(["/a/x", "/a/X", "/b"]) == []


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/../b", "a//b", "a\\b", "C:a", "con", "a/nul.txt", "a ", "a\x1b"]
)
def test_names_that_are_not_safe_to_join_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        relative_parts(name)


def test_safe_names_are_split() -> None:
    assert relative_parts("a/b_0001.png") == ("a", "b_0001.png")
