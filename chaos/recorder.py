"""Reads the frames that runners begin from their logs, before the sessions' folders are deleted."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BegunFrame:
    """One frame that a runner began. `silent_ms`: time since it sent the last call that the farm answered."""

    session: str
    attempt: str
    frame: int
    revision: int
    at_ms: int
    silent_ms: int


class Recorder(threading.Thread):
    """Keeps each runner.log open, so that its last lines can be read after its folder is deleted."""

    def __init__(self, sessions: Path) -> None:
        super().__init__(name="recorder", daemon=True)
        self._sessions = sessions
        self._logs: dict[str, tuple[int, bytearray]] = {}
        self._stopping = threading.Event()
        self.begun: list[BegunFrame] = []
        self.crashes: list[str] = []
        """Lines of the logs that name no frame, such as tracebacks."""

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            self._poll()

    def stop(self) -> None:
        """Read the remaining lines, and end the thread."""
        self._stopping.set()
        self.join()
        self._poll()
        for descriptor, _ in self._logs.values():
            os.close(descriptor)

    def _poll(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for session in os.listdir(self._sessions):
                if session not in self._logs:
                    with contextlib.suppress(OSError):
                        log = self._sessions / session / "runner.log"
                        self._logs[session] = os.open(log, os.O_RDONLY | os.O_CLOEXEC), bytearray()
        for session, (descriptor, rest) in self._logs.items():
            while part := os.read(descriptor, 1 << 16):
                rest += part
            *lines, last = bytes(rest).split(b"\n")
            rest[:] = last
            for line in lines:
                self._take(session, line)

    def _take(self, session: str, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.begun.append(
                BegunFrame(
                    session,
                    entry["attempt"],
                    entry["begins"],
                    entry["revision"],
                    entry["at_ms"],
                    entry["silent_ms"],
                )
            )
        except (ValueError, KeyError, TypeError):
            self.crashes.append(f"{session}: {line.decode(errors='replace')}")
