"""Paths of artists' machines, and relative names of outputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.errors import FieldError
from framefarm.core.paths import (
    MAX_PATHS,
    is_output_name,
    is_posix,
    linux_path,
    normalise,
    normalise_all,
    top_folder,
)


def problems(paths: list[str]) -> list[FieldError]:
    return normalise_all(paths)[1]


@pytest.mark.parametrize(
    ("given_path", "kind", "text"),
    [
        ("/a/b.blend", "posix", "/a/b.blend"),
        ("/a//./b", "posix", "/a/b"),
        ("c:\\a\\b.blend", "drive", "C:/a/b.blend"),
        ("C:/a/b", "drive", "C:/a/b"),
        ("\\\\srv\\share\\x", "unc", "//srv/share/x"),
        ("//srv/share/x", "unc", "//srv/share/x"),
        ("//srv/x", "posix", "/srv/x"),
        ("///srv/share/x", "posix", "/srv/share/x"),
    ],
)
def test_paths_are_normalised(given_path: str, kind: str, text: str) -> None:
    path = normalise(given_path)
    assert (path.kind, path.text) == (kind, text)


@pytest.mark.parametrize(
    "path", ["", "a/b", "/a/../b", "/a/", "/", "/a\x00b", "/a\nb", "/" + "x" * 256, "~/a"]
)
def test_text_that_is_no_path_of_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        normalise(path)


@given(
    st.sampled_from(["/", "//", "c:\\", "C:/", "\\\\"]),
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5),
)
def test_normalising_twice_changes_nothing(start: str, parts: list[str]) -> None:
    try:
        once = normalise(start + "/".join(parts))
    except ValueError:
        return
    assert normalise(once.text) == once


@pytest.mark.parametrize("paths", [["/a/b", "/a//b"], ["/a", "/a/b"], ["C:/A/x", "c:/a/X"], ["/a", "b"], []])
def test_a_jobs_paths_must_fit_together(paths: list[str]) -> None:
    assert problems(paths)


def test_case_matters_on_posix_alone() -> None:
    assert problems(["/a/x", "/a/X", "/b"]) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a/b", "absolute"),
        ("C:a", "absolute"),
        ("\\a\\b", "absolute"),
        ("", "empty"),
        ("/a/..", "'..'"),
        ("C:\\a\\..\\b", "'..'"),
        ("/a/", "not a folder"),
        ("C:/", "not a folder"),
        ("\\\\srv\\share", "not a folder"),
        ("\\\\?\\C:\\a", "device"),
        ("\\\\.\\pipe\\a\\b", "device"),
        ("\\\\?/C:/a", "device"),
        ("C:\\a:stream", "Windows"),
        ("\\\\srv\\share\\a|b", "Windows"),
        ("/a\x85b", "control"),
        ("/a\udcffb", "UTF-8"),
        ("/" + "é" * 128, "255 bytes"),
        ("/a" * 2049, "4096 bytes"),
        ("/" + "/".join(["a" * 255] * 15 + ["b" * 256]), "4096 bytes"),
        ("/" + "a" * 256, "255 bytes"),
        ("C:/a/" + "b" * 256, "255 bytes"),
    ],
)
def test_a_refused_path_says_what_is_wrong(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(path)


def test_limits_count_bytes_and_include_the_last_one() -> None:
    assert normalise("/" + "é" * 127).name == "é" * 127
    assert normalise("C:/" + "é" * 127).name == "é" * 127
    longest = "/" + "/".join(["a" * 255] * 15) + "/" + "b" * 255
    assert len(longest) == 4096
    assert normalise(longest).text == longest
    assert problems([longest]) == []
    assert [e.message for e in problems([longest + "/c", "/ok"])] == ["is longer than 4096 bytes"]


def test_device_names_are_refused_for_unc_paths_only() -> None:
    assert normalise("/?/a").text == "/?/a"
    assert normalise("C:\\.\\a").text == "C:/a"


def test_posix_names_may_have_the_characters_that_windows_refuses() -> None:
    for character in '<>:"|?*':
        assert normalise(f"/a{character}b").kind == "posix"
        with pytest.raises(ValueError, match="Windows"):
            normalise(f"C:/a{character}b")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/A/b", "/A/b"),
        ("C:/A/b", "/c/a/b"),
        ("\\\\Srv\\Share\\A", "/srv/share/a"),
    ],
)
def test_windows_paths_are_the_same_file_without_case(path: str, key: str) -> None:
    assert normalise(path).key == key
    assert normalise(path).parts[-1] == normalise(path).name


def test_only_paths_with_a_single_slash_at_the_start_are_posix() -> None:
    assert [is_posix(text) for text in ("/a", "//a/b/c", "C:/a")] == [True, False, False]


LONGEST_NAME = "/".join(["a" * 255] * 15 + ["a" * 254, "b"])


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("a/b.png", True),
        ("a\\b", True),
        ("con.png ", True),
        ("é" * 127, True),
        (LONGEST_NAME, True),
        (LONGEST_NAME + "b", False),
        ("é" * 128, False),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        ("./a", False),
        ("a/..", False),
        ("a\x7fb", False),
        ("a\ud800", False),
    ],
)
def test_output_names_stay_below_their_place(name: str, allowed: bool) -> None:
    assert is_output_name(name) is allowed


def test_a_refusal_of_several_paths_quotes_up_to_200_characters_of_each() -> None:
    long = "/" + "a" * 250
    assert [(e.field, e.message, e.given) for e in problems([long, long])] == [
        ("upload_paths[1]", f"is the same file as /{'a' * 199}", long[:200])
    ]
    assert [(e.message, e.given) for e in problems([long, long + "/b"])] == [
        (f"/{'a' * 199} would be both a file and a folder", long[:200])
    ]
    assert [e.given for e in problems(["b" * 250])] == ["b" * 200]
    mixed = ["C:/" + "x" * 250, "/c/" + "y" * 250]
    assert [(e.field, e.message, e.given) for e in problems(mixed)] == [
        (
            "upload_paths",
            f"would be the same file or folder as C:/{'x' * 197}: use one kind of path",
            "/c/" + "y" * 197,
        )
    ]


def test_the_number_of_paths_and_the_name_of_their_field_are_reported() -> None:
    assert normalise_all([], "files") == ([], [FieldError("files", "must be 1 to 100000 paths", 0)])
    assert normalise_all(["b"], "files")[1][0].field == "files[0]"
    assert normalise_all(["/a", "C:\\b"]) == (["/a", "C:/b"], [])


def test_a_windows_path_beside_posix_paths_of_other_top_folders_is_fine() -> None:
    assert problems(["C:/a", "/d/a", "//srv/share/x", "/a/c"]) == []


def test_the_stem_is_the_name_without_its_last_extension() -> None:
    assert [normalise(p).stem for p in ("/a/b.c.blend", "/a/b", "/a/.blend")] == ["b.c", "b", ".blend"]


small = st.lists(st.sampled_from(["a", "A", "b", "a-", "a.b", "é"]), min_size=1, max_size=4)


@given(
    st.lists(st.tuples(st.sampled_from(["/", "C:/", "c:\\", "//srv/share/"]), small), min_size=1, max_size=8)
)
def test_paths_fit_together_if_none_is_another_or_its_folder(drawn: list[tuple[str, list[str]]]) -> None:
    paths = [prefix + "/".join(parts) for prefix, parts in drawn]
    assert normalise_all(paths)[0] == [normalise(p).text for p in paths]
    keys = [tuple(normalise(p).key.split("/")) for p in paths]
    clash = any(
        i != j and one == other[: len(one)] for i, one in enumerate(keys) for j, other in enumerate(keys)
    )
    assert bool(problems(paths)) == clash


def test_every_bad_path_is_named_with_its_place() -> None:
    errors = problems(["/ok", "bad", "/ok", "/a", "/a/b", "/a/c/d", "/a-b"])
    assert [e.field for e in errors] == [
        "upload_paths[1]",
        "upload_paths[2]",
        "upload_paths",
        "upload_paths",
    ]
    assert [e.given for e in errors] == ["bad", "/ok", "/a/b", "/a/c/d"]


def test_a_job_has_at_most_a_hundred_thousand_paths() -> None:
    paths = [f"/show/shot_{i // 100}/{i}.exr" for i in range(MAX_PATHS)]
    assert problems(paths) == []
    assert problems([*paths, "/one/more"])[0].given == MAX_PATHS + 1


part = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
names = st.sampled_from(["a", "A", "b", "c", "C", "usr", "etc", "inputs", "lib", "é", "ß", "İ"])
starts = st.sampled_from(["/", "C:\\", "d:/", "\\\\srv\\", "\\\\usr\\", "\\\\c\\", "//c/"])
rivals = st.lists(st.tuples(starts, st.lists(names | part, min_size=1, max_size=4)), max_size=8)


@given(rivals)
def test_no_two_accepted_paths_lie_in_one_place_or_in_each_other(drawn: list[tuple[str, list[str]]]) -> None:
    texts, errors = normalise_all([start + "/".join(parts) for start, parts in drawn])
    if errors:
        return
    there = [tuple(linux_path(text).split("/")) for text in texts]
    for i, one in enumerate(there):
        assert one[0] == "" and not {"", ".", ".."} & set(one[1:])
        assert not any(i != j and one == other[: len(one)] for j, other in enumerate(there))
    assert all(
        text.startswith(top_folder(text)) and linux_path(text).startswith(top_folder(linux_path(text)))
        for text in texts
    )


@pytest.mark.parametrize(
    ("text", "there", "start"),
    [
        ("/a/b", "/a/b", "/a"),
        ("C:/a/b", "/c/a/b", "C:"),
        ("//srv/share/a", "/srv/share/a", "//srv"),
        ("/a", "/a", "/a"),
    ],
)
def test_a_windows_path_is_placed_where_blender_on_linux_searches(text: str, there: str, start: str) -> None:
    assert (linux_path(text), top_folder(text)) == (there, start)


@pytest.mark.parametrize(
    "paths", [["C:/a/x", "/c/b"], ["\\\\nas\\f\\x", "/nas/y/z"], ["//c/share/x", "C:/share/x"]]
)
def test_paths_of_two_systems_with_one_top_folder_are_refused(paths: list[str]) -> None:
    assert problems(paths)
