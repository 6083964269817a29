"""Names of pictures by the artist's pattern, shortened names, and names that every system takes."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.output_names import fitting, picture_name, problem_of_pattern, safe_path, safe_paths


@pytest.mark.parametrize(
    ("pattern", "number", "rest", "name"),
    [
        ("", "0007", ".png", "film#1_0007.png"),
        ("", "-0007", "_L.exr", "film#1_-0007_L.exr"),
        ("shot_####", "0007", ".png", "shot_0007.png"),
        ("shot_####", "12345", "_R.jpg", "shot_12345_R.jpg"),
        ("shot_######_beauty", "-0003", ".png", "shot_-000003_beauty.png"),
        ("a#b##", "0007", ".png", "a#b07.png"),
        ("shot", "0007", ".png", "shot0007.png"),
        ("#", "0000", ".png", "0.png"),
        ("Tür 7 ####", "0012", ".png", "Tür 7 0012.png"),
    ],
)
def test_the_last_run_of_hashes_is_the_frame(pattern: str, number: str, rest: str, name: str) -> None:
    assert picture_name("film#1", pattern, number, rest) == name


@pytest.mark.parametrize(
    "pattern",
    ["", "a/b", "a\\b", "..", ".a", "a ", "shot_####.png", "shot.EXR", "{scene}", "a\nb", "a\u202eb", "a:b",
     "aux", "x" * 201, "é" * 101, "con####.", 'say "hi"'],
)  # fmt: skip
def test_a_pattern_that_is_no_name_everywhere_is_refused_with_a_reason(pattern: str) -> None:
    assert problem_of_pattern(pattern)


@pytest.mark.parametrize("pattern", ["shot_####", "shot", "####", "v1.2_##", "Tür (7) [a] #"])
def test_other_patterns_are_taken(pattern: str) -> None:
    assert problem_of_pattern(pattern) is None


def test_long_stems_are_cut_alike_for_all_frames_and_told_apart_by_their_hash() -> None:
    long, other = "and so on " * 24 + "one", "and so on " * 24 + "two"
    first = picture_name(long, "", "0001", ".png")
    assert len(first.encode()) < 255
    assert picture_name(long, "", "0002", "_L.png") == first.replace("_0001.png", "_0002_L.png")
    assert picture_name(other, "", "0001", ".png") != first
    assert picture_name("x" * 200, "", "0001", ".png") == "x" * 200 + "_0001.png"


def test_an_ending_counts_in_bytes() -> None:
    name = fitting("ü" * 200 + ".日本")
    assert len(name.encode()) <= 255 and name.endswith(".日本")


def test_names_are_cut_between_characters_and_before_their_ending() -> None:
    name = fitting("ü" * 200 + ".exr")
    assert len(name.encode()) <= 255 and name.endswith(".exr") and "\ufffd" not in name


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("shot_0001.png", "shot_0001.png"),
        ("Depth/Image0001.exr", "Depth/Image0001.exr"),
        ("日本 ü/a~b0001.png", "日本 ü/a~b0001.png"),
        ('Shot 12: "dusk"?_0001.png', "Shot 12_ _dusk___0001.png"),
        ("day\\night_0001.png", "day_night_0001.png"),
        ("a./b ", "a_/b_"),
        ("CON/aux.png", "_CON/_aux.png"),
        ("a\u202eb\x07.png", "a_b_.png"),
        ("../x", "__/x"),
        ("/etc", "_/etc"),
    ],
)
def test_safe_paths_replace_what_some_system_refuses(path: str, safe: str) -> None:
    assert safe_path(path) == safe


def test_paths_that_would_become_one_are_told_apart() -> None:
    names = safe_paths(["a?.png", "a_.png", "a*.png", "A_.png"])
    assert names["a_.png"] == "a_.png"
    assert len({name.casefold() for name in names.values()}) == 4
    assert all(name.endswith(".png") for name in names.values())
    assert names == safe_paths(["a?.png", "a_.png", "a*.png", "A_.png"])


def test_a_name_that_looks_like_a_mark_does_not_take_its_place() -> None:
    first = safe_paths(["a?.png", "a_.png"])["a?.png"]
    names = safe_paths(["a?.png", "a_.png", first])
    assert len({name.casefold() for name in names.values()}) == 3
    assert names[first] == first


@given(
    st.lists(
        st.builds(
            lambda start, middle, count, end: start + middle * count + end,
            st.text(max_size=6),
            st.sampled_from("aü日"),
            st.integers(0, 130),
            st.text(max_size=12),
        ),
        max_size=5,
    ).map(lambda paths: [path for path in paths if path])
)
def test_safe_paths_are_names_below_a_folder_on_every_system(paths: list[str]) -> None:
    names = safe_paths(paths)
    assert set(names) == set(paths)
    for name in names.values():
        assert safe_path(name) == name
        assert max(len(part.encode()) for part in name.split("/")) <= 255
        for kind in (PurePosixPath, PureWindowsPath):
            parts = kind("/root", name).parts
            assert parts[1] == "root" and ".." not in parts and "/".join(parts[2:]) == name
