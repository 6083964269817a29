"""Webhooks of an account, and their deliveries from the event to the last attempt."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from framefarm.core.delivery import DeliveryStatus, retry_pause_ms
from framefarm.core.errors import Conflict, NotFound
from framefarm.protocol.api_webhooks import NewWebhook, WebhookChange
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.context import Keyring
from framefarm.server.database import Tx
from framefarm.server.events import service as events
from framefarm.server.ids import new_id
from framefarm.server.json_types import Answer
from framefarm.server.rows import DeliveryRow, EventRow, WebhookRow
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso
from framefarm.server.webhooks.tables import webhook_deliveries as deliveries
from framefarm.server.webhooks.tables import webhooks

WEBHOOKS_PER_ACCOUNT = 50
GIVE_UP_MS = 24 * 3_600_000
CLAIM_MS = 30_000
"""Time for which a claimed delivery belongs to one process; after a crash it is due again then."""
PAUSES_SECONDS = (1, 2, 5, 10, 15, 15, 15, 30, 30, 60, 300, 900, 3600)
"""Pauses between attempts; the last one is repeated until a day has passed."""
EVENTS_AT_ONCE = 500
_COLUMNS = {"events": "types"}
"""Fields of the API whose column has another name."""


def secret(keys: Keyring, webhook_id: str, number: int) -> str:
    """Signing secret, as the Standard Webhooks libraries take it. Derived from a key, never stored."""
    return "whsec_" + base64.b64encode(keys.key(f"webhook {webhook_id} {number}")).decode()


# --------------------------------------------------------------------- calls of the API


def create(tx: Tx, keys: Keyring, actor: Actor, body: NewWebhook) -> Answer:
    """Add a webhook, which gets the events from now on. Only this answer contains its secret."""
    accounts.lock(tx, actor.account_id)
    count = scoped(sa.select(sa.func.count()).select_from(webhooks), webhooks, actor.account_id)
    if tx.conn.execute(count).scalar_one() >= WEBHOOKS_PER_ACCOUNT:
        raise Conflict(f"An account has at most {WEBHOOKS_PER_ACCOUNT} webhooks: delete one first.")
    row = WebhookRow(
        id=new_id("whk"),
        account_id=actor.account_id,
        url=body.url,
        description=body.description,
        types=list(body.events),
        enabled=body.enabled,
        secret_number=1,
        position=events.newest(tx),
        created_ms=tx.now_ms,
    )
    tx.conn.execute(sa.insert(webhooks).values(asdict(row)))
    after = {"url": body.url, "events": body.events, "enabled": body.enabled}
    audit(tx, actor, "webhook.create", row.id, after=after)
    return _shape(tx, row) | {"secret": secret(keys, row.id, 1)}


def change(tx: Tx, keys: Keyring, actor: Actor, webhook_id: str, body: WebhookChange) -> Answer:
    """Change a webhook. Pending deliveries go to the new address; events of a disabled time are skipped."""
    row = _find(tx, actor, webhook_id)
    given = body.model_dump(exclude_none=True, exclude={"rotate_secret"})
    values = {_COLUMNS.get(name, name): value for name, value in given.items()}
    if body.rotate_secret:
        values["secret_number"] = row.secret_number + 1
    if body.enabled and not row.enabled:
        values["position"] = events.newest(tx)
    if values:
        statement = scoped(sa.update(webhooks), webhooks, actor.account_id)
        tx.conn.execute(statement.where(webhooks.c.id == webhook_id).values(values))
        before = {name: getattr(row, _COLUMNS.get(name, name)) for name in given}
        after = given | ({"secret": "changed"} if body.rotate_secret else {})
        audit(tx, actor, "webhook.change", webhook_id, before=before, after=after)
        tx.wake("webhooks")
    row = replace(row, **values)
    shown = secret(keys, webhook_id, row.secret_number) if body.rotate_secret else None
    return _shape(tx, row) | {"secret": shown}


def delete(tx: Tx, actor: Actor, webhook_id: str) -> None:
    """Remove a webhook and its deliveries."""
    row = _find(tx, actor, webhook_id)
    statement = scoped(sa.delete(deliveries), deliveries, actor.account_id)
    tx.conn.execute(statement.where(deliveries.c.webhook_id == webhook_id))
    statement = scoped(sa.delete(webhooks), webhooks, actor.account_id)
    tx.conn.execute(statement.where(webhooks.c.id == webhook_id))
    audit(tx, actor, "webhook.delete", webhook_id, before={"url": row.url, "events": row.types})


def listing(tx: Tx, actor: Actor, after: str, limit: int) -> list[Answer]:
    """Webhooks of the account with an id above `after`, lowest first."""
    query = scoped(sa.select(webhooks), webhooks, actor.account_id).where(webhooks.c.id > after)
    return [_shape(tx, row) for row in tx.rows(WebhookRow, query.order_by(webhooks.c.id).limit(limit))]


def find(tx: Tx, actor: Actor, webhook_id: str) -> Answer:
    """One webhook of the account. Raises NotFound."""
    return _shape(tx, _find(tx, actor, webhook_id))


def delivery_page(
    tx: Tx, actor: Actor, webhook_id: str, status: str | None, before: int | None, limit: int
) -> list[DeliveryRow]:
    """Deliveries of events with an id below `before`, newest first. Raises NotFound."""
    _find(tx, actor, webhook_id)
    query = scoped(sa.select(deliveries), deliveries, actor.account_id).where(
        deliveries.c.webhook_id == webhook_id
    )
    if status is not None:
        query = query.where(deliveries.c.status == status)
    if before is not None:
        query = query.where(deliveries.c.event_id < before)
    return tx.rows(DeliveryRow, query.order_by(deliveries.c.event_id.desc()).limit(limit))


def delivery_shape(row: DeliveryRow) -> Answer:
    return {
        "id": row.id,
        "webhook": row.webhook_id,
        "job": row.job_id,
        "event_type": row.type,
        "status": row.status,
        "attempts": row.attempts,
        "created_at": iso(row.created_ms),
        "last_attempt_at": iso(row.tried_ms),
        "next_attempt_at": iso(row.next_ms),
        "response_status": row.response_status,
        "error": row.error,
    }


def send_again(tx: Tx, actor: Actor, webhook_id: str, delivery_id: str) -> Answer:
    """Send an ended delivery once more, under the same id and outside the job's order.

    Raises NotFound, and Conflict while the delivery is pending.
    """
    _find(tx, actor, webhook_id)
    this = (deliveries.c.webhook_id == webhook_id) & (deliveries.c.id == delivery_id)
    query = scoped(sa.select(deliveries), deliveries, actor.account_id).where(this)
    row = tx.row_or_none(DeliveryRow, query.with_for_update())
    if row is None:
        raise NotFound(f"Webhook {webhook_id} has no delivery {delivery_id}.")
    if row.status is DeliveryStatus.PENDING:
        raise Conflict("This delivery is pending: it will be tried by itself.", state="pending")
    values: dict[str, Any] = {
        "status": DeliveryStatus.PENDING,
        "in_order": False,
        "next_ms": tx.now_ms,
        "give_up_ms": tx.now_ms + GIVE_UP_MS,
    }
    tx.conn.execute(scoped(sa.update(deliveries), deliveries, actor.account_id).where(this).values(values))
    audit(tx, actor, "webhook.resend", delivery_id)
    tx.wake("webhooks")
    return delivery_shape(replace(row, **values))


def _find(tx: Tx, actor: Actor, webhook_id: str) -> WebhookRow:
    query = scoped(sa.select(webhooks), webhooks, actor.account_id).where(webhooks.c.id == webhook_id)
    row = tx.row_or_none(WebhookRow, query.with_for_update())
    if row is None:
        raise NotFound(f"There is no webhook {webhook_id}.")
    return row


def _shape(tx: Tx, row: WebhookRow) -> Answer:
    query = farmwide(sa.select(deliveries.c.status, sa.func.count())).where(
        deliveries.c.webhook_id == row.id, deliveries.c.status != DeliveryStatus.DELIVERED
    )
    counts = {row[0]: row[1] for row in tx.conn.execute(query.group_by(deliveries.c.status))}
    return {
        "id": row.id,
        "url": row.url,
        "events": row.types,
        "description": row.description,
        "enabled": row.enabled,
        "created_at": iso(row.created_ms),
        "pending": counts.get(DeliveryStatus.PENDING, 0),
        "failed": counts.get(DeliveryStatus.FAILED, 0),
    }


# ------------------------------------------------------------------- steps of the sender


@dataclass(frozen=True, slots=True)
class DueDelivery(DeliveryRow):
    """A claimed delivery, with where to send it and how to sign it."""

    url: str
    secret_number: int
    event: EventRow | None = None
    """None: the event was trimmed before it could be sent."""


def any_enabled(tx: Tx) -> bool:
    """Whether any account has an enabled webhook."""
    query = farmwide(sa.select(webhooks.c.id)).where(webhooks.c.enabled).limit(1)
    return tx.conn.execute(query).first() is not None


def wants(types: list[str], event_type: str) -> bool:
    """Whether a webhook's list of types (`*`, `job.*`, `job.status`) covers an event type."""
    return "*" in types or event_type in types or f"{event_type.partition('.')[0]}.*" in types


def queue_deliveries(tx: Tx, up_to: int) -> bool:
    """Insert the deliveries of events up to the id `up_to`, a page for each webhook.

    Returns whether a webhook had a full page: then there may be more.
    """
    more = False
    query = farmwide(sa.select(webhooks)).where(webhooks.c.enabled, webhooks.c.position < up_to)
    for webhook in tx.rows(WebhookRow, query.with_for_update()):
        page = events.account_page(tx, webhook.account_id, webhook.position, up_to, EVENTS_AT_ONCE)
        full = len(page) == EVENTS_AT_ONCE
        more = more or full
        _queue(tx, webhook, [event for event in page if wants(webhook.types, event.type)])
        # Without events of the account there is no write: the same stretch is read again next time.
        if page:
            position = page[-1].id if full else up_to
            statement = farmwide(sa.update(webhooks)).where(webhooks.c.id == webhook.id)
            tx.conn.execute(statement.values(position=position))
    return more


def _queue(tx: Tx, webhook: WebhookRow, new_events: list[EventRow]) -> None:
    """Insert deliveries: the first of each job is due now, unless an older one of the job is pending."""
    if not new_events:
        return
    heads = farmwide(sa.select(deliveries.c.job_id)).where(
        deliveries.c.webhook_id == webhook.id,
        deliveries.c.next_ms.is_not(None),
        deliveries.c.in_order,
        deliveries.c.job_id.in_({event.job_id for event in new_events}),
    )
    jobs_with_head = set(tx.conn.execute(heads).scalars())
    inserts = []
    for event in new_events:
        inserts.append(
            {
                "id": new_id("dlv"),
                "account_id": webhook.account_id,
                "webhook_id": webhook.id,
                "event_id": event.id,
                "job_id": event.job_id,
                "type": event.type,
                "status": DeliveryStatus.PENDING,
                "in_order": True,
                "attempts": 0,
                "created_ms": tx.now_ms,
                "give_up_ms": tx.now_ms + GIVE_UP_MS,
                "next_ms": None if event.job_id in jobs_with_head else tx.now_ms,
            }
        )
        jobs_with_head.add(event.job_id)
    tx.conn.execute(sa.insert(deliveries), inserts)


def claim_due(tx: Tx, limit: int, busy: set[str]) -> tuple[list[DueDelivery], int | None]:
    """Claim up to `limit` due deliveries, for `CLAIM_MS`. `busy`: webhooks with enough requests in work.

    Returns the deliveries, and the time in ms at which the next one is due, if it was read.
    """
    query = farmwide(
        sa.select(deliveries, webhooks.c.url, webhooks.c.secret_number).join(
            webhooks, webhooks.c.id == deliveries.c.webhook_id
        )
    ).where(
        deliveries.c.next_ms.is_not(None),
        webhooks.c.enabled,
        deliveries.c.webhook_id.not_in(sorted(busy)),
    )
    query = query.order_by(deliveries.c.next_ms, deliveries.c.event_id).limit(limit)
    heads = tx.rows(DueDelivery, query.with_for_update(of=deliveries, skip_locked=True))
    due = [row for row in heads if row.next_ms is not None and row.next_ms <= tx.now_ms]
    later = [row.next_ms for row in heads if row.next_ms is not None and row.next_ms > tx.now_ms]
    if due:
        claimed = deliveries.c.id.in_([row.id for row in due])
        tx.conn.execute(farmwide(sa.update(deliveries)).where(claimed).values(next_ms=tx.now_ms + CLAIM_MS))
        event_of = events.by_ids(tx, [row.event_id for row in due])
        due = [replace(row, event=event_of.get(row.event_id)) for row in due]
    return due, min(later, default=None)


def record_attempt(
    tx: Tx, row: DeliveryRow, response_status: int | None, error: str | None
) -> DeliveryStatus:
    """Record one attempt; `error` None: delivered. Pending again after an error, failed after a day."""
    hook = farmwide(sa.select(webhooks.c.id)).where(webhooks.c.id == row.webhook_id)
    tx.conn.execute(hook.with_for_update())  # `queue_deliveries` reads the heads under the same lock
    attempts = row.attempts + 1
    values: dict[str, Any] = {
        "attempts": attempts,
        "tried_ms": tx.now_ms,
        "response_status": response_status,
        "error": error,
    }
    if error is None:
        status = DeliveryStatus.DELIVERED
    elif tx.now_ms >= row.give_up_ms:
        status = DeliveryStatus.FAILED
    else:
        status = DeliveryStatus.PENDING
    if status is DeliveryStatus.PENDING:
        next_ms = tx.now_ms + retry_pause_ms(attempts, PAUSES_SECONDS)
        values["next_ms"] = min(next_ms, max(row.give_up_ms, tx.now_ms + 1000))
    else:
        values |= {"status": status, "next_ms": None}
    this = (deliveries.c.id == row.id) & (deliveries.c.status == DeliveryStatus.PENDING)
    tx.conn.execute(farmwide(sa.update(deliveries)).where(this).values(values))
    if status is DeliveryStatus.FAILED:
        _expire(tx, row)
    if status is not DeliveryStatus.PENDING and row.in_order:
        _promote(tx, row)
    return status


def _expire(tx: Tx, row: DeliveryRow) -> None:
    """Fail the job's deliveries that have waited behind the failed one for a day themselves."""
    overdue = farmwide(sa.update(deliveries)).where(
        deliveries.c.webhook_id == row.webhook_id,
        deliveries.c.job_id == row.job_id,
        deliveries.c.status == DeliveryStatus.PENDING,
        deliveries.c.next_ms.is_(None),
        deliveries.c.give_up_ms <= tx.now_ms,
    )
    text = "not tried: the receiver took no earlier event of this job for a day"
    tx.conn.execute(overdue.values(status=DeliveryStatus.FAILED, error=text))


def _promote(tx: Tx, row: DeliveryRow) -> None:
    """Make the job's next delivery due."""
    same_job = (deliveries.c.webhook_id == row.webhook_id) & (deliveries.c.job_id == row.job_id)
    waiting = same_job & (deliveries.c.status == DeliveryStatus.PENDING) & deliveries.c.next_ms.is_(None)
    first = farmwide(sa.select(deliveries.c.id)).where(waiting).order_by(deliveries.c.event_id).limit(1)
    head = deliveries.c.id == first.scalar_subquery()
    tx.conn.execute(farmwide(sa.update(deliveries)).where(head).values(next_ms=tx.now_ms))


# -------------------------------------------------------------------- retention, health


def forgettable(tx: Tx) -> int:
    """Number of deliveries that `forget` would remove in all."""
    query = farmwide(sa.select(sa.func.count()).select_from(deliveries)).where(_ended_and_trimmed(tx))
    return int(tx.conn.execute(query).scalar_one())


def forget(tx: Tx, limit: int) -> int:
    """Remove ended deliveries of trimmed events, oldest first; returns how many.

    `limit` counts events: with several webhooks it is a few more.
    """
    old = _ended_and_trimmed(tx)
    oldest = farmwide(sa.select(deliveries.c.event_id)).where(old).order_by(deliveries.c.event_id)
    statement = farmwide(sa.delete(deliveries)).where(
        deliveries.c.event_id.in_(oldest.limit(limit)), deliveries.c.status != DeliveryStatus.PENDING
    )
    return tx.conn.execute(statement).rowcount


def _ended_and_trimmed(tx: Tx) -> sa.ColumnElement[bool]:
    trimmed = deliveries.c.event_id <= events.position(tx, events.TRIMMED)
    return trimmed & (deliveries.c.status != DeliveryStatus.PENDING)


def queued(tx: Tx) -> int:
    """Number of pending deliveries of all accounts."""
    count = farmwide(sa.select(sa.func.count()).select_from(deliveries))
    return int(tx.conn.execute(count.where(deliveries.c.status == DeliveryStatus.PENDING)).scalar_one())
