"""Files that a colour configuration names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.ocio import references

CONFIG = """ocio_profile_version: 1

search_path: "luts:filmic:C:/shared/luts"
roles:
  default: linear
colorspaces:
  - !<ColorSpace>
    name: a
    to_reference: !<FileTransform> {src: srgb.spi1d, interpolation: linear}
    from_reference: !<GroupTransform>
      children:
        - !<FileTransform> {interpolation: best, src: "film look.cube"}
        - !<FileTransform> {src: $SHOT.cube, interpolation: best}
"""


def test_search_path_and_files_are_found() -> None:
    assert references(CONFIG) == (["luts", "filmic", "C:/shared/luts"], ["srgb.spi1d", "film look.cube"])


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("search_path: luts\n", ["luts"]),
        ("search_path:\n  - luts\n  - 'more luts'\nroles:\n", ["luts", "more luts"]),
        ("search_path: $ROOT:luts", ["luts"]),
        ("search_path: luts:/abs/luts", ["luts", "/abs/luts"]),
        ("search_path: C:\\luts:a:b::c", ["C:\\luts", "a", "b", "c"]),
        ("search_path:\n  -  \n", [""]),
        ("search_path:\nroles:\n  - x\n", [""]),
        ("", [""]),
    ],
)
def test_a_search_path_may_be_written_in_each_form(text: str, folders: list[str]) -> None:
    assert references(text) == (folders, [])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"film look.cube"', "film look.cube"),
        ("'film look.cube'", "film look.cube"),
        ("film look.cube ", "film look.cube"),
        ("abca", "abca"),
        ("'a", "'a"),
        ("a'", "a'"),
        ("\"a'", "\"a'"),
        ("'a\"", "'a\""),
        ("'", "'"),
    ],
)
def test_a_name_is_read_with_or_without_its_quotes(written: str, name: str) -> None:
    assert references(f"to_reference: !<FileTransform> {{src: {written}}}") == ([""], [name])


def test_a_name_of_nothing_but_quotes_is_no_name() -> None:
    assert references("search_path: ''\na: !<FileTransform> {src: ''}") == ([""], [])
    assert references('search_path: "') == (['"'], [])


def test_at_most_100_folders_and_10000_files_are_read() -> None:
    text = "search_path: " + ":".join(f"d{n}" for n in range(101)) + "\n"
    text += "\n".join(f"- !<FileTransform> {{src: f{n}}}" for n in range(10_001))
    assert references(text) == ([f"d{n}" for n in range(100)], [f"f{n}" for n in range(10_000)])


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    folders, files = references("search_path: " + text)
    assert folders and all("$" not in name for name in folders + files)
