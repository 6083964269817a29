"""Loop that sends webhooks: signed, in order within a job, repeated for a day.

All that it needs is in the deliveries' rows, so a restart loses nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections import Counter
from collections.abc import Callable

import httpcore2
import msgspec
import structlog

from framefarm import __version__
from framefarm.core.delivery import DeliveryStatus
from framefarm.server.context import AppContext
from framefarm.server.events import service as events
from framefarm.server.loops import repeat_when_woken
from framefarm.server.metrics import DELIVERIES
from framefarm.server.rows import EventRow
from framefarm.server.tracing import span
from framefarm.server.webhooks import addresses, service
from framefarm.server.webhooks.service import DueDelivery

log = structlog.get_logger(__name__)
AT_ONCE, AT_ONCE_PER_WEBHOOK = 32, 8
ATTEMPT_SECONDS = 10.0
"""Limit of a whole attempt: resolving, connecting, sending, reading."""
ANSWER_BYTES = 4096
"""Most bytes read of an answer's body."""
FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
)
POLL_SECONDS = 10.0


def body_of(delivery_id: str, row: EventRow) -> bytes:
    """Body of a delivery's requests; every attempt sends the same bytes."""
    event = events.shape(row)
    return msgspec.json.encode(
        {"id": delivery_id, "type": event["type"], "timestamp": event["at"], "data": event}
    )


def headers_of(secret: str, delivery_id: str, at_seconds: int, body: bytes) -> dict[str, str]:
    """Headers of one attempt, after the Standard Webhooks specification.

    The signature covers the delivery's id, the attempt's time (seconds since the epoch) and the body.
    """
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
    """Queues deliveries of new events and sends those that are due; `run` never returns."""

    def __init__(self, context: AppContext, position: Callable[[], int | None]) -> None:
        self.context = context
        self._position = position
        """Returns the commit horizon: the last event id that may be read, None while it is unknown."""
        self._allowed = addresses.networks(context.settings.webhook_allowed_networks)
        self._ssl = ssl.create_default_context()
        self._in_work: Counter[str] = Counter()
        """Webhook → its requests in work."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            async with self.context.hub.listen("webhooks") as woken:
                await repeat_when_woken(woken, self.run_pass, seconds=POLL_SECONDS, failure="webhooks_failed")
        finally:
            for task in self._tasks:
                task.cancel()

    async def run_pass(self) -> float:
        """Queue new deliveries and begin due ones; returns the seconds until the next pass."""
        up_to = self._position()
        if up_to is None or not await self.context.db.read(service.any_enabled):
            return POLL_SECONDS
        while await self.context.db.write(service.queue_deliveries, up_to):
            pass
        busy = {webhook for webhook, count in self._in_work.items() if count >= AT_ONCE_PER_WEBHOOK}
        room = AT_ONCE - len(self._tasks)
        if room <= 0 or self.context.draining:
            return POLL_SECONDS
        due, next_due_ms = await self.context.db.write(service.claim_due, room, busy)
        for delivery in due:
            self._in_work[delivery.webhook_id] += 1
            task = asyncio.create_task(self._attempt(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(due) == room:
            return 0.0
        if next_due_ms is None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(0.01, (next_due_ms - self.context.db.clock_ms()) / 1000))

    async def _attempt(self, delivery: DueDelivery) -> None:
        webhook_id = delivery.webhook_id
        try:
            with span("webhook try", delivery=delivery.id, attempt=delivery.attempts + 1):
                status, error = await self.send(delivery)
            outcome = await self.context.db.write(service.record_attempt, delivery, status, error)
            DELIVERIES.labels("delivered" if error is None else "refused").inc()
            if outcome is DeliveryStatus.FAILED:
                log.warning("webhook_failed", delivery=delivery.id, webhook=webhook_id, error=error)
        except Exception:
            log.exception("webhook_not_settled", delivery=delivery.id)
        finally:
            self._in_work[webhook_id] -= 1
            if not self._in_work[webhook_id]:
                del self._in_work[webhook_id]
            self.context.hub.wake("webhooks")

    async def send(self, delivery: DueDelivery) -> tuple[int | None, str | None]:
        """Send a delivery once. Returns (the answer's status, error in one sentence); only a 2xx succeeds."""
        if delivery.event is None:
            return None, "the event is not kept any more"
        body = body_of(delivery.id, delivery.event)
        secret = service.secret(self.context.keys, delivery.webhook_id, delivery.secret_number)
        headers = headers_of(secret, delivery.id, self.context.db.clock_ms() // 1000, body)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                status = await self._post(delivery.url, headers, body)
        except TimeoutError:
            return None, f"no answer within {ATTEMPT_SECONDS:.0f} s"
        except addresses.Forbidden as error:
            return None, f"{error}; the operator may allow it"
        except FAILURES as error:
            return None, f"{type(error).__name__}: {error}"[:300]
        if 200 <= status < 300:
            return status, None
        hint = " (redirects are not followed)" if 300 <= status < 400 else ""
        return status, f"the receiver answered {status}{hint}"

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """Status of one request, on a connection of its own. The pool uses no redirect and no proxy."""
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._ssl,
                network_backend=addresses.GuardedBackend(self._allowed),
                max_connections=1,
            ) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as answer,
        ):
            read = 0
            async for piece in answer.aiter_stream():
                read += len(piece)
                if read >= ANSWER_BYTES:
                    break
            return int(answer.status)
