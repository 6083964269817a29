"""Reads what each runner writes of the frames it begins, while its folder still exists."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Begun:
    """A frame that a machine began. `silent_ms`: how long the farm had not answered it then."""

    session: str
    attempt: str
    frame: int
    revision: int
    at_ms: int
    silent_ms: int


class Recorder(threading.Thread):
    """Holds every runner.log open: what is written to it can be read after its folder has gone."""

    def __init__(self, sessions: Path) -> None:
        super().__init__(name="witness", daemon=True)
        self._sessions = sessions
        self._logs: dict[str, tuple[int, bytearray]] = {}
        self._over = threading.Event()
        self.begun: list[Begun] = []
        self.crashes: list[str] = []
        """What runners had to say that is no frame."""

    def run(self) -> None:
        while not self._over.wait(0.05):
            self._look()

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._look()
        for descriptor, _ in self._logs.values():
            os.close(descriptor)

    def _look(self) -> None:
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
            said = json.loads(line)
            self.begun.append(
                Begun(
                    session,
                    said["attempt"],
                    said["begins"],
                    said["revision"],
                    said["at_ms"],
                    said["silent_ms"],
                )
            )
        except (ValueError, KeyError, TypeError):
            self.crashes.append(f"{session}: {line.decode(errors='replace')}")
