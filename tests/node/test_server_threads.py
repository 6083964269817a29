"""The runner's threads: none dies unheard."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from framefarm.node.output_stager import FrameRefused, OutputStager, SavedFrame, StagingFolders
from framefarm.node.runner import abort_on_thread_failure
from framefarm.node.server_threads import ReportSender
from framefarm.protocol import node as msg


@pytest.fixture
def inbox() -> Iterator[queue.SimpleQueue[object]]:
    before = threading.excepthook
    put: queue.SimpleQueue[object] = queue.SimpleQueue()
    abort_on_thread_failure(put.put)
    yield put
    threading.excepthook = before


def test_a_staging_without_folder_is_refused(tmp_path: Path, inbox: queue.SimpleQueue[object]) -> None:
    """Its staging is no folder: a fault that nobody foresaw."""
    staging = tmp_path / "staging"
    staging.touch()
    places = StagingFolders(staging, None, tmp_path / "decoder", "shot")
    collector = OutputStager(inbox.put, lambda event: None, places, "bubblewrap")
    collector.start()
    collector.add(SavedFrame("a", 1, tmp_path, 0, 0.0, 0, ()))
    refused = inbox.get(timeout=60)
    assert isinstance(refused, FrameRefused) and refused.cause == "staging_failed"
    collector.finish(hurry=True)


class FakeLink:
    """Takes every report."""

    def __init__(self) -> None:
        self.taken: list[msg.Report] = []

    def report(self, said: msg.Report) -> msg.ReportReply:
        self.taken.append(said)
        return msg.ReportReply(
            last_seq=said.seq,
            verdicts=["applied"] * len(said.events),
            desired=msg.DesiredState(version=0, tasks=[]),
        )


@pytest.mark.parametrize(("files", "reports"), [(1, 1), (1000, 3), (2000, 5)])
def test_a_report_has_a_bound_of_events_and_of_files(
    tmp_path: Path, inbox: queue.SimpleQueue[object], files: int, reports: int
) -> None:
    link = FakeLink()
    lane = ReportSender(link, inbox.put, tmp_path, tmp_path)  # type: ignore[arg-type]
    file = msg.StagedFile(path="a.png", staged="1.0", kind="frame", size=1, md5="", sha256="")
    for frame in range(5):
        lane.send(msg.FrameSaved(attempt="a", frame=frame, at_ms=0, seconds=0.0, files=[file] * files))
    lane.start()
    lane.finish(60)
    assert len(link.taken) == reports
    assert [e.frame for r in link.taken for e in r.events if isinstance(e, msg.FrameSaved)] == list(range(5))
