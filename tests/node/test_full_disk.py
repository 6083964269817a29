"""A disk that is full for a while: logging continues later, staging refuses the frame; neither hangs."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

from framefarm.node.blender_log import BlenderLog
from framefarm.node.output_stager import FrameRefused, OutputStager, SavedFrame, StagingFolders
from framefarm.protocol import node as msg


def test_a_log_that_cannot_be_written_is_dropped_and_goes_on_later(tmp_path: Path) -> None:
    log = BlenderLog()
    log.switch(Path("/dev/full"))
    log.write(b"lost\n")
    log.switch(tmp_path / "missing" / "attempt.log")
    log.write(b"lost too\n")
    log.switch(tmp_path / "attempt.log")
    log.write(b"kept\n")
    assert (tmp_path / "attempt.log").read_bytes() == b"kept\n"


def started_stager(staging: Path) -> tuple[OutputStager, queue.SimpleQueue[Any], list[msg.Event]]:
    sent: list[msg.Event] = []
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    folders = StagingFolders(staging, None, staging.with_name("decoder"), "film")
    stager = OutputStager(inbox.put, sent.append, folders, "none")
    stager.start()
    return stager, inbox, sent


def saved(folder: Path) -> SavedFrame:
    folder.mkdir()
    (folder / "picture_0007.png").write_bytes(b"picture")
    return SavedFrame("att_1", 7, folder, 100, 0.1, 0, ())


def test_a_staging_folder_that_cannot_be_made_refuses_the_frame(tmp_path: Path) -> None:
    (tmp_path / "staging").write_bytes(b"no folder")
    stager, inbox, sent = started_stager(tmp_path / "staging")
    stager.add(saved(tmp_path / "1"))
    stager.finish(hurry=True)
    refused = inbox.get_nowait()
    assert isinstance(refused, FrameRefused)
    assert (refused.cause, refused.frame) == ("staging_failed", 7)
    assert sent == []


def test_a_staging_folder_that_cannot_be_synced_refuses_the_frames_in_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("framefarm.node.output_stager.sync_directory", full)
    stager, inbox, sent = started_stager(tmp_path / "staging")
    stager.add(saved(tmp_path / "1"))
    stager.add(msg.TaskEnded(attempt="att_1", outcome="success", started_ms=0, ended_ms=1))
    stager.finish(hurry=True)
    refused = inbox.get_nowait()
    assert isinstance(refused, FrameRefused)
    assert refused.cause == "disk_full"
    assert sent == []
