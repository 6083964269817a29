"""The farm's side of the node protocol for one session, in memory, with a real runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from framefarm.protocol import node as msg

E = TypeVar("E")


class Unavailable(Exception):
    """The call is answered with a 503."""


@dataclass
class OneJobFarm:
    """Assigns `tasks` to one runner, and keeps the events of its reports."""

    folder: Path
    config: msg.SessionConfig
    inputs: list[msg.Input]
    uid: int
    gpus: int = 0
    tasks: list[msg.TaskOrder] = field(default_factory=list)
    cancel: bool = False
    drain: bool = True
    unavailable: bool = False
    """Reports are answered with a 503."""
    refused_reports: int = 0
    events: list[Any] = field(default_factory=list)
    progress: list[msg.Progress] = field(default_factory=list)
    version: int = 1
    runner: subprocess.Popen[bytes] | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (_Handler,), {"farm": self}))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        session = self.folder / "session"
        session.mkdir(mode=0o755)
        endpoint = self.folder / "endpoint"
        endpoint.write_text(f"http://127.0.0.1:{self._server.server_port}")
        slot = msg.Slot(
            session="s", token="t", endpoint_file=str(endpoint), directory=str(session), node="here",
            cores=(min(os.sched_getaffinity(0)),), memory_bytes=4 << 30, uid=self.uid, gpus=self.gpus,
        )  # fmt: skip
        command = [sys.executable, "-m", "framefarm.node.runner"]
        self.runner = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert self.runner.stdin is not None
        self.runner.stdin.write(msgspec.json.encode(slot))
        self.runner.stdin.close()

    def end(self) -> None:
        if self.runner is not None and self.runner.poll() is None:
            self.runner.kill()
            self.runner.wait()
        self._server.shutdown()
        self._server.server_close()

    def give(self, attempt: str, *frames: int) -> None:
        with self.changed:
            number = len(self.tasks) + 1
            self.tasks.append(msg.TaskOrder(attempt=attempt, number=number, frames=list(frames)))
            self.version += 1

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds, 90 s at most."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout=90), self.events

    def events_of(self, event_type: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, event_type)]

    def ended(self, attempt: str) -> msg.TaskEnded:
        """Wait for the attempt's end; returns its event."""
        ends: list[msg.TaskEnded] = []

        def has_ended() -> bool:
            ends[:] = [e for e in self.events_of(msg.TaskEnded) if e.attempt == attempt]
            return bool(ends)

        self.wait(has_ended)
        return ends[0]

    def reason_of_end(self) -> str:
        """Wait for the session's end; returns its reason."""
        assert self.runner is not None
        self.runner.wait(60)
        return str(json.loads((self.folder / "session" / "ended.json").read_text())["reason"])

    # ----------------------------------------------------------------------------- the four calls

    def answer(self, name: str, body: bytes) -> msgspec.Struct:
        if name == "hello":
            return self.config
        if name == "inputs":
            return msg.Inputs(inputs=self.inputs)
        with self.changed:
            if name == "sync":
                sync = msgspec.json.decode(body, type=msg.Sync)
                if sync.progress is not None:
                    self.progress.append(sync.progress)
                    self.changed.notify_all()
                self.changed.wait_for(lambda: self.version > sync.seen, timeout=0.1)
                return self._desired()
            if self.unavailable:
                self.refused_reports += 1
                self.changed.notify_all()
                raise Unavailable
            report = msgspec.json.decode(body, type=msg.Report)
            self.events += report.events
            self.changed.notify_all()
            verdicts: list[msg.Verdict] = ["applied" for _ in report.events]
            return msg.ReportReply(last_seq=report.seq, verdicts=verdicts, desired=self._desired())

    def _desired(self) -> msg.DesiredState:
        ended = {e.attempt for e in self.events_of(msg.TaskEnded)}
        tasks = [t for t in self.tasks if t.attempt not in ended]
        return msg.DesiredState(version=self.version, tasks=tasks, drain=self.drain, cancel=self.cancel)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    farm: OneJobFarm

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, answer = 200, msgspec.json.encode(self.farm.answer(self.path.rpartition("/")[2], body))
        except Unavailable:
            status, answer = 503, b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass
