"""The rules for a frame's pictures, with real pictures and the real decoder."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from decoder_harness import inspect
from PIL import Image

from framefarm.node.frame_validation import FrameCheck, check_frame
from framefarm.node.image_decoder import SECONDS
from framefarm.protocol.node import FrameColour, StagedFile


def checked(
    tmp_path: Path, path: str, kind: str = "frame", width: int = 4, height: int = 2, seconds: float = SECONDS
) -> FrameCheck:
    file = StagedFile(path=path, staged=path, kind=kind, size=1, md5="", sha256="")  # type: ignore[arg-type]
    return check_frame([file], width, height, lambda f: inspect(tmp_path / f.staged, seconds=seconds)[0])


def picture(path: Path, size: tuple[int, int] = (4, 2)) -> Path:
    made = Image.new("RGB", size)
    made.putpixel((0, 0), (255, 0, 0))
    made.save(path)
    return path


def test_a_whole_picture_passes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert checked(tmp_path, "a.png") == FrameCheck(colour=FrameColour(colour=None))


def test_picture_damaged_where_it_is_cut_off(tmp_path: Path) -> None:
    whole = picture(tmp_path / "a.png", (64, 36)).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:-30])
    assert checked(tmp_path, "a.png", width=64, height=36).cause == "picture_damaged"
    assert checked(tmp_path, "a.png", "extra").cause == "picture_damaged"


def test_wrong_resolution_names_both(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    found = checked(tmp_path, "a.png", width=8)
    assert found.cause == "wrong_resolution"
    assert found.message is not None and "4×2 pixels, not 8×2" in found.message
    assert checked(tmp_path, "a.png", width=0, height=0).cause is None
    assert checked(tmp_path, "a.png", "extra", width=8).cause is None


def test_all_nan_fails(tmp_path: Path) -> None:
    Image.new("F", (4, 2), math.nan).save(tmp_path / "a.tif")
    assert checked(tmp_path, "a.tif").cause == "all_nan"


@pytest.mark.parametrize(("colour", "value"), [("black", 0.0), ("white", 1.0)])
def test_a_picture_of_one_colour_passes_with_its_colour(tmp_path: Path, colour: str, value: float) -> None:
    Image.new("RGB", (4, 2), colour).save(tmp_path / "a.png")
    assert checked(tmp_path, "a.png") == FrameCheck(colour=FrameColour(colour=[value] * 3))


def test_an_extra_text_file_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert checked(tmp_path, "notes.txt", "extra") == FrameCheck()


def test_not_a_picture_where_the_frame_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("a long text that is no picture of any kind " * 20)
    assert checked(tmp_path, "a.png").cause in {"not_a_picture", "picture_damaged"}


def test_picture_too_large_is_a_warning_only(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    found = checked(tmp_path, "a.png")
    assert found.cause is None
    assert [w.code for w in found.warnings] == ["picture_too_large"]


def test_decoder_died_is_a_warning_only(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    found = checked(tmp_path, "a.png", seconds=0.001)
    assert found.cause is None
    assert [w.code for w in found.warnings] == ["decoder_died"]


def test_of_two_eyes_the_first_gives_the_frames_colour(tmp_path: Path) -> None:
    picture(tmp_path / "a_L.png")
    Image.new("RGB", (4, 2)).save(tmp_path / "a_R.png")
    files = [
        StagedFile(path=name, staged=name, kind="frame", size=1, md5="", sha256="")
        for name in ("a_L.png", "a_R.png")
    ]
    found = check_frame(files, 4, 2, lambda f: inspect(tmp_path / f.staged)[0])
    assert found == FrameCheck(colour=FrameColour(colour=None))
