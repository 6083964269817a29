"""A session's HTTP calls to the farm (docs/node-protocol.md).

A call without an answer is repeated every 0.2 to 1 s in the first minute, then every 1 to 5 s. The farm's
address is read again each time: the farm may have restarted on another port.
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
"""How long a call is repeated at the short interval."""


class SessionOver(Exception):
    """The farm has ended the session: 401, 404, 410, 413, 422, or 409 to a hello."""


class ServerUnreachable(Exception):
    """The farm has not answered for longer than `disconnected_seconds`."""


class ReportOutOfOrder(Exception):
    """The farm answered 409 to a report: it expects number `expected`."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the farm expects report {expected}")
        self.expected = expected


class ServerClient:
    """One session's calls to the farm. Each thread gets one kept-alive connection of its own.

    `patience_seconds` returns how long the farm may be silent. All calls block until they are answered, and
    raise SessionOver, or ServerUnreachable after that time.
    """

    def __init__(self, slot: msg.Slot, patience_seconds: Callable[[], float]) -> None:
        self._slot = slot
        self._patience = patience_seconds
        self._headers = {"Authorization": f"Bearer {slot.token}", "Content-Type": "application/json"}
        self._thread_local = threading.local()
        self.last_answer = time.monotonic()
        """When the last answered call was sent, in monotonic seconds."""
        self.closing = False
        """True: a call without an answer is not repeated."""

    @property
    def silent_seconds(self) -> float:
        """Seconds since the sending of the last call that the farm has answered."""
        return time.monotonic() - self.last_answer

    def hello(self, hello: msg.Hello) -> msg.SessionConfig:
        return self._call("POST", "hello", hello, msg.SessionConfig)

    def inputs(self) -> msg.Inputs:
        return self._call("GET", "inputs", None, msg.Inputs, timeout_seconds=120)

    def sync(self, sync: msg.Sync) -> msg.DesiredState:
        return self._call("POST", "sync", sync, msg.DesiredState, timeout_seconds=sync.wait_seconds + 30)

    def report(self, report: msg.Report) -> msg.ReportReply:
        """Send a report. Also raises ReportOutOfOrder."""
        return self._call("POST", "reports", report, msg.ReportReply)

    def _call(
        self,
        method: str,
        name: str,
        message: msg.Message | None,
        reply_type: type[T],
        timeout_seconds: float = 30.0,
    ) -> T:
        body = msgspec.json.encode(message) if message is not None else None
        since = time.monotonic()
        while True:
            # A cut connection may give no error: without this bound, one call could outlast the patience.
            remaining = max(1.0, self._patience() - self.silent_seconds)
            sent_at = time.monotonic()
            status, reply = self._request_once(method, name, body, min(timeout_seconds, remaining))
            if status == 200:
                # The time of sending, since a node that was frozen meanwhile reads an old answer.
                self.last_answer = max(self.last_answer, sent_at)
                return msgspec.json.decode(reply, type=reply_type)
            if status == 409 and name == "reports":
                raise ReportOutOfOrder(msgspec.json.decode(reply, type=msg.SequenceGap).expected)
            if status in {401, 404, 409, 410, 413, 422}:
                raise SessionOver(f"{name}: {status} {reply[:300].decode(errors='replace')}")
            # 5xx or no answer: the farm restarts, drains, or its disk is full.
            if self.closing or self.silent_seconds > self._patience():
                raise ServerUnreachable(f"no answer for {self.silent_seconds:.0f} s")
            quick = time.monotonic() - since < QUICK_SECONDS
            time.sleep(random.uniform(0.2, 1.0) if quick else random.uniform(1.0, 5.0))  # noqa: S311

    def _request_once(
        self, method: str, name: str, body: bytes | None, timeout_seconds: float
    ) -> tuple[int, bytes]:
        """(HTTP status, body) of one request; (0, b"") if there was no answer."""
        try:
            base = Path(self._slot.endpoint_file).read_text().strip()
            response = self._pool().request(
                method,
                f"{base}/node/v1/sessions/{self._slot.session}/{name}",
                body=body,
                headers=self._headers,
                timeout=urllib3.Timeout(connect=5.0, read=timeout_seconds),
            )
        except (OSError, urllib3.exceptions.HTTPError):
            return 0, b""
        return response.status, response.data

    def _pool(self) -> urllib3.PoolManager:
        pool: urllib3.PoolManager | None = getattr(self._thread_local, "pool", None)
        if pool is None:
            pool = self._thread_local.pool = urllib3.PoolManager(num_pools=2, maxsize=1, retries=False)
        return pool
