"""Which uploads a path of a scene stands for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.path_matching import Uploads, fold, frame_parts, placeable_aliases

UPLOADS = [
    "C:/proj/Tex/Wood.PNG",
    "C:/proj/row/sea_0001.exr", "C:/proj/row/sea_0002.exr", "C:/proj/row/sea_old.exr",
    "C:/proj/row/SEA_0003.exr",
    "C:/proj/skin.1001.png", "C:/proj/Skin.1002.png", "C:/proj/skin.2001.png", "C:/proj/uv.u1_v1.png",
    "/p/a/x", "/p/A/x", "/p/cache/Smoke_000001_00.bphys", "/p/cache/sub/1.vdb", "/p/Straße_01.png",
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("C:/proj/Tex/Wood.PNG", ["C:/proj/Tex/Wood.PNG"]),
        ("C:/proj/tex/wood.png", ["C:/proj/Tex/Wood.PNG"]),
        ("/p/a/x", ["/p/a/x"]),
        ("/p/a/X", []),  # two fit
        ("/p/none", []),
    ],
)
def test_one_file_is_found_exactly_else_without_case_if_only_one_fits(path: str, found: list[str]) -> None:
    answer = Uploads(UPLOADS).find(path)
    assert [real for _, real in answer.files] == found
    assert answer.missing == (() if found else (path,))
    assert [name for name, _ in answer.files] == ([path] if found else [])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("C:/proj/row/sea_0001.exr", {"C:/proj/row/sea_0001.exr": 0, "C:/proj/row/sea_0002.exr": 0,
                                      "C:/proj/row/sea_0003.exr": "C:/proj/row/SEA_0003.exr"}),
        ("C:/proj/row/sea_0900.exr", {"C:/proj/row/sea_0001.exr": 0, "C:/proj/row/sea_0002.exr": 0,
                                      "C:/proj/row/sea_0003.exr": "C:/proj/row/SEA_0003.exr"}),
        ("/p/Cache/smoke_*_00.bphys", {"/p/Cache/smoke_000001_00.bphys": "/p/cache/Smoke_000001_00.bphys"}),
        ("/p/cache", {"/p/cache/Smoke_000001_00.bphys": 0, "/p/cache/sub/1.vdb": 0}),
        ("/p/CACHE", {"/p/CACHE/Smoke_000001_00.bphys": "/p/cache/Smoke_000001_00.bphys",
                      "/p/CACHE/sub/1.vdb": "/p/cache/sub/1.vdb"}),
        ("/p/straße_07.png", {"/p/straße_01.png": "/p/Straße_01.png"}),
        ("C:/proj/uv.<UVTILE>.png", {"C:/proj/uv.u1_v1.png": 0}),
        ("C:/proj/skin.<UDIM>.png", {"C:/proj/skin.1001.png": 0,
                                      "C:/proj/skin.1002.png": "C:/proj/Skin.1002.png"}),
        ("/p/a/x", {"/p/a/x": 0}),
    ],
)  # fmt: skip
def test_many_files_are_found_by_their_pattern(path: str, found: dict[str, object]) -> None:
    answer = Uploads(UPLOADS).find(path, many=True)
    assert dict(answer.files) == {name: real or name for name, real in found.items()}
    assert answer.missing == ()


def test_wanted_tiles_are_reported_one_by_one() -> None:
    answer = Uploads(UPLOADS).find("C:/proj/skin.<UDIM>.png", many=True, tiles=[1001, 1003])
    assert answer.files == (("C:/proj/skin.1001.png", "C:/proj/skin.1001.png"),)
    assert answer.missing == ("C:/proj/skin.1003.png",)


def test_wanted_tiles_are_found_without_case_and_count_for_udim_alone() -> None:
    uploads = Uploads(UPLOADS)
    assert uploads.find("C:/proj/skin.<UDIM>.png", tiles=[1002]).aliases == (
        ("C:/proj/skin.1002.png", "C:/proj/Skin.1002.png"),
    )
    none = uploads.find("/q/<UDIM>.png", tiles=range(1020, 1000, -1))
    assert (none.files, none.missing) == ((), tuple(f"/q/{tile}.png" for tile in range(1001, 1021)))
    assert uploads.find("C:/proj/uv.<UVTILE>.png", tiles=[1001]).missing == ()


def test_a_folder_or_a_sequence_is_found_only_where_a_path_may_stand_for_many() -> None:
    uploads = Uploads([*UPLOADS, "/p/seq_02", "/p/seq_03"])
    assert uploads.find("/p/cache").missing == ("/p/cache",)
    assert uploads.find("/p/seq_01").missing == ("/p/seq_01",)
    assert [real for _, real in uploads.find("/p/seq_01", many=True).files] == ["/p/seq_02", "/p/seq_03"]


def test_aliases_are_the_files_whose_names_differ() -> None:
    uploads = Uploads(UPLOADS)
    assert "/p/a/x" in uploads and "/p/a/X" not in uploads
    assert uploads.find("C:/proj/row/sea_0001.exr", many=True).aliases == (
        ("C:/proj/row/sea_0003.exr", "C:/proj/row/SEA_0003.exr"),
    )
    assert uploads.find("/P/A/X").aliases == ()
    assert uploads.find("C:/PROJ/Tex/Wood.PNG").aliases == (("C:/PROJ/Tex/Wood.PNG", "C:/proj/Tex/Wood.PNG"),)


def test_of_several_files_that_fit_a_pattern_alike_only_an_exact_one_is_taken() -> None:
    both = ["/p/X_1.png", "/p/x_1.PNG"]
    assert Uploads(both).find("/p/x_*.png", many=True).missing == ("/p/x_*.png",)
    exact = Uploads([*both, "/p/x_1.png"]).find("/p/x_*.png", many=True)
    assert exact.files == (("/p/x_1.png", "/p/x_1.png"),)


def test_a_pattern_without_a_file_is_missing_itself() -> None:
    for path in ("/q/x_*.png", "/q/x.<UDIM>.png", "/q/x_01.png", "/q/folder"):
        assert Uploads(UPLOADS).find(path, many=True).missing == (path,)


path = st.lists(st.sampled_from(["a", "A", "b", "İ", "x1", "x2", "X3"]), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)


@given(st.lists(path, max_size=8), path, st.booleans())
def test_files_found_differ_from_their_names_in_case_alone(paths: list[str], wanted: str, many: bool) -> None:
    found = Uploads(paths).find(wanted, many=many)
    assert bool(found.files) != bool(found.missing)
    assert all(real in paths and fold(name) == fold(real) for name, real in found.files)
    assert wanted not in paths or many or found.files == ((wanted, wanted),)


@given(st.lists(path, max_size=6), st.lists(path, max_size=6))
def test_aliases_lie_beside_the_uploads(paths: list[str], aliases: list[str]) -> None:
    kept = [name for name, _ in placeable_aliases([(name, "/x") for name in aliases], paths)]
    there = [*dict.fromkeys(paths), *kept]
    assert len(set(there)) == len(there)
    for name in kept:
        assert not any(o != name and (o + "/").startswith(name + "/") for o in there)
        assert not any(o != name and (name + "/").startswith(o + "/") for o in there)


def test_an_alias_that_is_no_plain_path_is_left_out() -> None:
    odd = ["/a/../b", "/a//b", "C:\\x", "a/b", "/a\nb", "//srv/x"]
    good = ["/a/b", "C:/a", "//srv/share/x"]
    assert [name for name, _ in placeable_aliases([(name, "/x") for name in odd + good], [])] == good


@given(st.text(max_size=20))
def test_folding_keeps_the_length(text: str) -> None:
    assert len(fold(text)) == len(text)


def test_folding_leaves_letters_whose_small_form_is_longer() -> None:
    assert fold("İA/ß") == "İa/ß"
    assert fold("ÄB_c") == "äb_c"


def test_hostile_names_are_answered_at_once() -> None:
    """Each of these took hours with a search that tries all possibilities."""
    uploads = Uploads(["/a/" + "a" * 250, *UPLOADS])
    assert uploads.find("/a/" + "*a" * 100 + "*b", many=True).missing != ()
    assert uploads.find("/a/" + "*a" * 100 + "*", many=True).files[0][1] == "/a/" + "a" * 250
    assert uploads.find("/a/" + "*" * 1_000_000, many=True).missing != ()
    assert frame_parts("1" * 1_000_000 + "a1b") == ("1" * 1_000_000 + "a", "b")
    assert frame_parts("1" * 1_000_000 + "²") == ("", "²")


def test_a_pattern_may_have_several_gaps() -> None:
    uploads = Uploads(["/p/fog_07_aa_b.vdb", "/p/Fog__b.vdb", "/p/fog_b.vdb", "/p/fog_1_b.vdb.away"])
    found = uploads.find("/p/fog_*_*.vdb", many=True)
    assert dict(found.files) == {
        "/p/fog_07_aa_b.vdb": "/p/fog_07_aa_b.vdb",
        "/p/fog__b.vdb": "/p/Fog__b.vdb",
    }


def test_only_names_with_the_right_beginning_are_tried() -> None:
    """300 point caches of 250 files each, in one folder, took 20 s."""
    tried: list[str] = []

    class Watched(Uploads):
        def _starting(self, start: str) -> Iterable[tuple[str, str]]:
            for folded, real in super()._starting(start):
                tried.append(real)
                yield folded, real

    uploads = Watched([f"/p/cache/{owner}_{frame}.bphys" for owner in "ABC" for frame in range(5)])
    found = uploads.find("/p/cache/b_*.bphys", many=True)
    assert len(found.files) == 5
    assert {path for _, path in found.files} == set(tried)
