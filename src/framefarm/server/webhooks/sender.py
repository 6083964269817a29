"""Sends webhooks: signed, in order per job, again for a day. Rows decide; a restart loses nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpcore2
import msgspec
import structlog

from framefarm import __version__
from framefarm.server.context import AppContext
from framefarm.server.events import service as events
from framefarm.server.loops import repeat_when_woken
from framefarm.server.metrics import DELIVERIES
from framefarm.server.tracing import span
from framefarm.server.webhooks import addresses, service

log = structlog.get_logger(__name__)
AT_ONCE, AT_ONCE_PER_WEBHOOK = 32, 8
SECONDS = 10.0
"""All of a try: resolving, connecting, sending, reading."""
ANSWER_BYTES = 4096
"""Of an answer's body, no more than this is read."""
FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
)
LOOK_SECONDS = 10.0


def body_of(row: dict[str, Any]) -> bytes:
    """What is sent: the same bytes at every try."""
    event = events.shape(row["event"])
    return msgspec.json.encode(
        {"id": row["id"], "type": event["type"], "timestamp": event["at"], "data": event}
    )


def headers_of(secret: str, delivery_id: str, at_seconds: int, body: bytes) -> dict[str, str]:
    """Standard Webhooks: the signature covers the delivery's id, the time of this try, and the body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{delivery_id}.{at_seconds}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": f"framefarm/{__version__}",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(at_seconds),
        "webhook-signature": f"v1,{signature}",
    }


class Sender:
    """`run` is its life."""

    def __init__(self, context: AppContext, position: Callable[[], int | None]) -> None:
        self.context = context
        self._position = position
        """How far events may be read: none below it commits any more."""
        self._allowed = addresses.networks(context.settings.webhook_allowed_networks)
        self._ssl = ssl.create_default_context()
        self._in_work: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            async with self.context.hub.listen("webhooks") as woken:
                await repeat_when_woken(woken, self.round, seconds=LOOK_SECONDS, failure="webhooks_failed")
        finally:
            for task in self._tasks:
                task.cancel()

    async def round(self) -> float:
        """Write down new deliveries and begin what is due; returns in how many seconds to look again."""
        up_to = self._position()
        if up_to is not None and await self.context.db.read(service.any_enabled):
            while await self.context.db.write(service.plan, up_to):
                pass
        else:
            return LOOK_SECONDS
        busy = {hook for hook, count in self._in_work.items() if count >= AT_ONCE_PER_WEBHOOK}
        room = AT_ONCE - len(self._tasks)
        if room <= 0 or self.context.draining:
            return LOOK_SECONDS
        due, later_ms = await self.context.db.write(service.take, room, busy)
        for row in due:
            self._in_work[row["webhook_id"]] += 1
            task = asyncio.create_task(self._one(row))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(due) == room:
            return 0.0
        wait = LOOK_SECONDS if later_ms is None else (later_ms - self.context.db.clock_ms()) / 1000
        return min(LOOK_SECONDS, max(0.01, wait))

    async def _one(self, row: dict[str, Any]) -> None:
        try:
            with span("webhook try", delivery=row["id"], attempt=row["attempts"] + 1):
                status, error = await self.send(row)
            outcome = await self.context.db.write(service.settle, row, status, error)
            DELIVERIES.labels("delivered" if error is None else "refused").inc()
            if outcome == "failed":
                log.warning("webhook_failed", delivery=row["id"], webhook=row["webhook_id"], error=error)
        except Exception:
            log.exception("webhook_not_settled", delivery=row["id"])
        finally:
            self._in_work[row["webhook_id"]] -= 1
            if not self._in_work[row["webhook_id"]]:
                del self._in_work[row["webhook_id"]]
            self.context.hub.wake("webhooks")

    async def send(self, row: dict[str, Any]) -> tuple[int | None, str | None]:
        """(status of the answer, what went wrong in one sentence). Only a 2xx is a delivery."""
        if row["event"] is None:
            return None, "the event is not kept any more"
        body = body_of(row)
        key = service.secret(self.context.keys, row["webhook_id"], row["secret_number"])
        headers = headers_of(key, row["id"], self.context.db.clock_ms() // 1000, body)
        try:
            async with asyncio.timeout(SECONDS):
                status = await self._post(row["url"], headers, body)
        except TimeoutError:
            return None, f"no answer within {SECONDS:.0f} s"
        except addresses.Forbidden as error:
            return None, f"{error}; the operator may allow it"
        except FAILURES as error:
            return None, f"{type(error).__name__}: {error}"[:300]
        if 200 <= status < 300:
            return status, None
        hint = " (redirects are not followed)" if 300 <= status < 400 else ""
        return status, f"the receiver answered {status}{hint}"

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """One request on a connection of its own. The pool follows no redirect and knows no proxy."""
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._ssl, network_backend=addresses.Guarded(self._allowed), max_connections=1
            ) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as answer,
        ):
            read = 0
            async for piece in answer.aiter_stream():
                read += len(piece)
                if read >= ANSWER_BYTES:
                    break
            return int(answer.status)
