"""The calls home. Two lanes, each one kept-alive connection: `sync` is held open, `reports` go beside it.

A farm that does not answer is asked again every 0.2–1 s in the first minute, then up to every 5 s, and its
address is read again each time: it may have come back on another port.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import urllib3

from framefarm.protocol import node as msg

T = TypeVar("T")
QUICK_SECONDS = 60.0


class SessionOver(Exception):
    """401, 409 to a hello, or 410: nothing of this session is its own any more."""


class ServerUnreachable(Exception):
    """The farm did not answer for longer than the disconnected budget."""


class ReportOutOfOrder(Exception):
    """409 to a report: send number `expected` next."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the farm expects report {expected}")
        self.expected = expected


class ServerClient:
    """One session's way to the farm; each thread uses a lane of its own."""

    def __init__(self, slot: msg.Slot, patience_seconds: Callable[[], float]) -> None:
        self._slot = slot
        self._patience = patience_seconds
        self._headers = {"Authorization": f"Bearer {slot.token}", "Content-Type": "application/json"}
        self._lanes = threading.local()
        self.last_answer = time.monotonic()
        self.closing = False

    @property
    def silent_seconds(self) -> float:
        """Since the last call was sent that the farm has answered; it may be that much behind."""
        return time.monotonic() - self.last_answer

    def hello(self, said: msg.Hello) -> msg.SessionConfig:
        return self._call("POST", "hello", said, msg.SessionConfig)

    def inputs(self) -> msg.Inputs:
        return self._call("GET", "inputs", None, msg.Inputs, timeout_seconds=120)

    def sync(self, said: msg.Sync) -> msg.DesiredState:
        return self._call("POST", "sync", said, msg.DesiredState, timeout_seconds=said.wait_seconds + 30)

    def report(self, said: msg.Report) -> msg.ReportReply:
        return self._call("POST", "reports", said, msg.ReportReply)

    def _call(
        self, method: str, name: str, said: msg.Message | None, kind: type[T], timeout_seconds: float = 30.0
    ) -> T:
        body = msgspec.json.encode(said) if said is not None else None
        since = time.monotonic()
        while True:
            # A cut cable tells nobody: a call that waits longer than the budget would outlast it.
            left = max(1.0, self._patience() - self.silent_seconds)
            sent = time.monotonic()
            status, answer = self._once(method, name, body, min(timeout_seconds, left))
            if status == 200:
                # Not when it was read: a machine that was frozen meanwhile reads what was said long ago.
                self.last_answer = max(self.last_answer, sent)
                return msgspec.json.decode(answer, type=kind)
            if status == 409 and name == "reports":
                raise ReportOutOfOrder(msgspec.json.decode(answer, type=msg.SequenceGap).expected)
            if status in {401, 404, 409, 410, 413, 422}:
                raise SessionOver(f"{name}: {status} {answer[:300].decode(errors='replace')}")
            # 5xx and no answer at all: the farm restarts, drains, or its disk is full.
            if self.closing or self.silent_seconds > self._patience():
                raise ServerUnreachable(f"no answer for {self.silent_seconds:.0f} s")
            quick = time.monotonic() - since < QUICK_SECONDS
            time.sleep(random.uniform(0.2, 1.0) if quick else random.uniform(1.0, 5.0))  # noqa: S311

    def _once(self, method: str, name: str, body: bytes | None, timeout_seconds: float) -> tuple[int, bytes]:
        try:
            base = Path(self._slot.endpoint_file).read_text().strip()
            answer = self._pool().request(
                method,
                f"{base}/node/v1/sessions/{self._slot.session}/{name}",
                body=body,
                headers=self._headers,
                timeout=urllib3.Timeout(connect=5.0, read=timeout_seconds),
            )
        except (OSError, urllib3.exceptions.HTTPError):
            return 0, b""
        return answer.status, answer.data

    def _pool(self) -> urllib3.PoolManager:
        pool: urllib3.PoolManager | None = getattr(self._lanes, "pool", None)
        if pool is None:
            pool = self._lanes.pool = urllib3.PoolManager(num_pools=2, maxsize=1, retries=False)
        return pool
