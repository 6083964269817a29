"""The runner's threads: faults reach the inbox, reports have bounds."""

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
    """The staging folder is a file."""
    staging = tmp_path / "staging"
    staging.touch()
    folders = StagingFolders(staging, None, tmp_path / "decoder", "shot")
    stager = OutputStager(inbox.put, lambda event: None, folders, "bubblewrap")
    stager.start()
    stager.add(SavedFrame("a", 1, tmp_path, 0, 0.0, 0, ()))
    refused = inbox.get(timeout=60)
    assert isinstance(refused, FrameRefused) and refused.cause == "staging_failed"
    stager.finish(hurry=True)


class FakeClient:
    """Takes every report."""

    def __init__(self) -> None:
        self.reports: list[msg.Report] = []

    def report(self, report: msg.Report) -> msg.ReportReply:
        self.reports.append(report)
        return msg.ReportReply(
            last_seq=report.seq,
            verdicts=["applied"] * len(report.events),
            desired=msg.DesiredState(version=0, tasks=[]),
        )


@pytest.mark.parametrize(("files", "reports"), [(1, 1), (1000, 3), (2000, 5)])
def test_a_report_has_a_bound_of_events_and_of_files(
    tmp_path: Path, inbox: queue.SimpleQueue[object], files: int, reports: int
) -> None:
    client = FakeClient()
    sender = ReportSender(client, inbox.put, tmp_path, tmp_path)  # type: ignore[arg-type]
    file = msg.StagedFile(path="a.png", staged="1.0", kind="frame", size=1, md5="", sha256="")
    for frame in range(5):
        sender.send(msg.FrameSaved(attempt="a", frame=frame, at_ms=0, seconds=0.0, files=[file] * files))
    sender.start()
    sender.finish(60)
    assert len(client.reports) == reports
    assert [e.frame for r in client.reports for e in r.events if isinstance(e, msg.FrameSaved)] == list(
        range(5)
    )
