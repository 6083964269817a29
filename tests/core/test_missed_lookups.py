"""Which of the files that Blender looked for in vain a scene really lacks."""

from __future__ import annotations

import pytest

from framefarm.core import missed_lookups


def nothing(_: str) -> bool:
    return False


@pytest.mark.parametrize(
    "path",
    [
        "/film/wood.png", "/film/shot_0007_beauty.exr", "/film/lamp one.ies", "/film/stripes.osl",
        "/film/set/prop.blend", "/film/fog_0003.vdb", "/film/t.1002.png", "/film/layer.usda", "/film/own.h",
        "/film/Schrift Ä.ttf", "/film/noend", "/film/boom.wav",
    ],
)  # fmt: skip
def test_a_file_of_the_scene_is_lacking(path: str) -> None:
    assert missed_lookups.lacking([path], nothing) == [path]


@pytest.mark.parametrize(
    "path",
    [
        "/film/x.py", "/film/__pycache__/x.cpython-311.pyc", "/film/libx.so.3", "/film/scene.blend1",
        "/film/BL_proxy/a.avi/proxy_25.avi", "/film/blendcache_scene/name_000001_00.bphys",
        "/film/cache/data/fluid_data_0001.vdb", "/film/t.<UDIM>.png", "/film/stdosl.h", "/luts/a.spi1d",
        "/film/square.mtl",
    ],
)  # fmt: skip
def test_names_that_tell_nothing_of_the_scene_are_left_out(path: str) -> None:
    assert missed_lookups.lacking([path], nothing) == []


def test_another_form_of_a_file_is_no_lookup_of_its_own() -> None:
    assert missed_lookups.lacking(["/a/x.oso"], lambda path: path == "/a/x.osl") == []
    assert missed_lookups.lacking(["/a/x.oso", "/a/x.osl"], nothing) == ["/a/x.osl"]
    assert missed_lookups.lacking(["/a/x.oso"], nothing) == ["/a/x.oso"]
    assert missed_lookups.lacking(["/a/x.tx"], lambda path: path == "/a/x.png") == []


def test_a_file_that_is_there_by_now_is_not_lacking() -> None:
    assert missed_lookups.lacking(["/a/b.png", "/a/a.png"], lambda path: path == "/a/b.png") == ["/a/a.png"]


@pytest.mark.parametrize(
    ("path", "user"),
    [
        ("/a/seq_0007_x.png", "image seq"),
        ("/a/t.1003.png", "image tiles"),
        ("/a/u2_v1.tif", "image uv"),
        ("/a/wood.png", "image wood"),
        ("/a/layer.usda", "cache file set"),
        ("/elsewhere/lamp.ies", ""),
    ],
)
def test_the_user_of_a_file_is_that_of_its_sequence_or_tiles(path: str, user: str) -> None:
    users = missed_lookups.by_sequence(
        [
            ("/a/seq_#_x.png", "image seq"),
            ("/a/t.<UDIM>.png", "image tiles"),
            ("/a/<UVTILE>.tif", "image uv"),
            ("/a/wood.png", "image wood"),
            ("/a/set.usdc", "cache file set"),
            ("/b/set.usdz", "cache file set"),
        ]
    )
    assert missed_lookups.wanted_by(path, users) == user


def test_of_two_readers_of_stages_none_is_named() -> None:
    users = missed_lookups.by_sequence([("/a/a.usd", "cache file a"), ("/a/b.usda", "cache file b")])
    assert missed_lookups.wanted_by("/a/layer.usda", users) == ""


def test_at_the_opening_neither_libraries_nor_single_frames_count() -> None:
    users = missed_lookups.by_sequence([("/a/seq_#.png", "image seq")])
    counts = [
        missed_lookups.counts_at_opening(path, users)
        for path in ("/a/lib.blend", "/a/seq_0007.png", "/a/other_0007.png", "/a/layer.usda")
    ]
    assert counts == [False, False, True, True]


def test_a_file_without_a_frames_number_is_missed_in_all_later_frames() -> None:
    known = {"/a/wood2.png", "/a/t.<UDIM>.png", "/a/seq_#.png"}
    lasting = [
        missed_lookups.is_lasting(path, known)
        for path in ("/a/lamp.ies", "/a/wood2.png", "/a/t.1002.png", "/a/seq_0007.png")
    ]
    assert lasting == [True, True, True, False]


def test_a_hostile_name_is_answered_at_once() -> None:
    """It took hours with a search that tries all possibilities."""
    digits = "1" * 1_000_000
    assert missed_lookups.sequence_of(f"/a/{digits}a1.png") == f"/a/{digits}a#.png"
