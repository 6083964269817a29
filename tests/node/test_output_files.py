"""The hostile output folder: which files are staged, and which are refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from framefarm.node.output_files import FrameLimits, OutputRejected, collect, sync_directory


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    folder = tmp_path / "output" / "1"
    folder.mkdir(parents=True)
    (folder / "picture_0007.png").write_bytes(b"picture")
    return folder


def refused(frame: Path, limits: FrameLimits | None = None) -> OutputRejected:
    with pytest.raises(OutputRejected) as refusal:
        collect(frame, frame.parent.parent / "staging", "film", 7, limits or FrameLimits())
    return refusal.value


def test_pictures_get_the_stem_and_extras_keep_their_path(frame: Path, tmp_path: Path) -> None:
    (frame / "Depth" / "deep").mkdir(parents=True)
    (frame / "Depth" / "deep" / "Image0007.exr").write_bytes(b"extra")
    (frame / "picture_0008.png").write_bytes(b"of another frame")
    files = collect(frame, tmp_path / "staging", "film#1", 7)
    sync_directory(tmp_path / "staging")
    assert [(f.path, f.kind, f.size) for f in files] == [
        ("film#1_0007.png", "frame", 7),
        ("Depth/deep/Image0007.exr", "extra", 5),
        ("picture_0008.png", "extra", 16),
    ]
    copy = tmp_path / "staging" / files[0].staged
    assert copy.read_bytes() == b"picture"
    assert copy.stat().st_mode & 0o777 == 0o644
    assert files[0].md5 == hashlib.md5(b"picture").hexdigest()
    assert files[0].sha256 == hashlib.sha256(b"picture").hexdigest()
    assert not frame.exists()


def test_a_large_file_is_hashed_whole(frame: Path, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (frame / "picture_0007.png").write_bytes(content)
    [file] = collect(frame, tmp_path / "staging", "film", 7)
    assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_files_of_an_earlier_attempt_are_replaced(frame: Path, tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "7.0").write_bytes(b"half of a much longer picture")
    [file] = collect(frame, tmp_path / "staging", "film", 7)
    assert (tmp_path / "staging" / file.staged).read_bytes() == b"picture"


def test_bad_output_a_symbolic_link_is_not_followed(frame: Path) -> None:
    (frame / "picture_0007.exr").symlink_to("/etc/hostname")
    assert refused(frame).cause == "bad_output"


def test_a_linked_folder_is_not_followed(frame: Path) -> None:
    (frame / "Depth").symlink_to("/etc")
    assert refused(frame).cause == "bad_output"


def test_the_frames_folder_itself_may_not_be_a_link(frame: Path) -> None:
    elsewhere = frame.rename(frame.parent / "elsewhere")
    frame.symlink_to(elsewhere)
    assert refused(frame).cause == "bad_output"
    assert (elsewhere / "picture_0007.png").exists()


def test_a_file_with_a_second_link_is_refused(frame: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    os.link(secret, frame / "extra")
    assert refused(frame).cause == "bad_output"


def test_a_pipe_or_a_socket_is_refused_at_once(frame: Path) -> None:
    os.mkfifo(frame / "extra")
    assert refused(frame).cause == "bad_output"


@pytest.mark.parametrize("name", [b"bad\xff.png", b"bell\x07.png", b"line\n.png", b"del\x7f.png"])
def test_a_name_that_is_not_plain_text_is_refused(frame: Path, name: bytes) -> None:
    (Path(os.fsdecode(os.fsencode(frame) + b"/" + name))).write_bytes(b"")
    assert refused(frame).cause == "bad_output"


def test_names_that_differ_in_case_only_are_refused(frame: Path) -> None:
    (frame / "Depth").mkdir()
    (frame / "depth").write_bytes(b"")
    assert refused(frame).cause == "bad_output"


def test_too_many_files_are_refused(frame: Path) -> None:
    for number in range(5):
        (frame / str(number)).write_bytes(b"")
    assert refused(frame, FrameLimits(files=5)).cause == "too_many_files"


def test_output_too_large_is_refused(frame: Path) -> None:
    (frame / "z").write_bytes(b"four")
    assert refused(frame, FrameLimits(bytes=10)).cause == "output_too_large"


def test_too_deep_a_nest_is_refused(frame: Path) -> None:
    frame.joinpath(*"abcdefghijk").mkdir(parents=True)
    assert refused(frame).cause == "bad_output"


def test_a_frame_without_a_picture_is_refused(frame: Path) -> None:
    (frame / "picture_0007.png").rename(frame / "picture_0006.png")
    assert refused(frame).cause == "no_picture"


def test_staging_failed_names_the_file(frame: Path, tmp_path: Path) -> None:
    (tmp_path / "staging" / "7.0").mkdir(parents=True)  # a folder where the file should go
    with pytest.raises(OutputRejected) as refusal:
        collect(frame, tmp_path / "staging", "film", 7)
    assert refusal.value.cause == "staging_failed"
    assert "picture_0007.png" in refusal.value.detail


def test_pictures_have_the_jobs_own_name_with_their_view(tmp_path: Path) -> None:
    frame = frame_folder(
        tmp_path, {"picture_0007_L.png": b"l", "picture_0007_R.png": b"r", "Depth/a0007.exr": b"d"}
    )
    files = collect(frame, tmp_path / "staging", "film", 7, pattern="shot_##_x")
    assert [f.path for f in files] == ["shot_07_x_L.png", "shot_07_x_R.png", "Depth/a0007.exr"]


def test_a_picture_of_a_scene_with_a_long_name_has_a_name_that_fits(tmp_path: Path) -> None:
    frame = frame_folder(tmp_path, {"picture_0007.png": b"x"})
    [file] = collect(frame, tmp_path / "staging", "and so on " * 25, 7)
    assert len(file.path.encode()) <= 255 and file.path.endswith("_0007.png")


def test_a_frame_without_a_picture_is_taken_only_where_its_scene_has_none(tmp_path: Path) -> None:
    frame = frame_folder(tmp_path, {"Sky/sky_0007.png": b"x"})
    with pytest.raises(OutputRejected) as rejected:
        collect(frame, tmp_path / "staging", "film", 7)
    assert rejected.value.cause == "no_picture"
    frame = frame_folder(tmp_path, {"Sky/sky_0007.png": b"x"})
    [file] = collect(frame, tmp_path / "staging", "film", 7, has_picture=False)
    assert (file.path, file.kind) == ("Sky/sky_0007.png", "extra")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputRejected):
        collect(tmp_path / "empty", tmp_path / "staging", "film", 7, has_picture=False)


def frame_folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / f"frame{len(list(tmp_path.iterdir()))}"
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder
