"""The runner's threads: none dies unheard."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from framefarm.node.collector import Collector, Frame, Places, Refused
from framefarm.node.runner import end_with_threads


@pytest.fixture
def inbox() -> Iterator[queue.SimpleQueue[object]]:
    before = threading.excepthook
    put: queue.SimpleQueue[object] = queue.SimpleQueue()
    end_with_threads(put.put)
    yield put
    threading.excepthook = before


def test_a_staging_without_folder_is_refused(tmp_path: Path, inbox: queue.SimpleQueue[object]) -> None:
    """Its staging is no folder: a fault that nobody foresaw."""
    staging = tmp_path / "staging"
    staging.touch()
    places = Places(staging, None, tmp_path / "decoder", "shot")
    collector = Collector(inbox.put, lambda event: None, places, "bubblewrap")
    collector.start()
    collector.add(Frame("a", 1, tmp_path, 0, 0.0, 0, ()))
    refused = inbox.get(timeout=60)
    assert isinstance(refused, Refused) and refused.cause == "staging_failed"
    collector.finish(hurry=True)
