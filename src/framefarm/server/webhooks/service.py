"""Webhooks of an account, their deliveries, and the row by row life of each delivery."""

from __future__ import annotations

import base64
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import Conflict, NotFound
from framefarm.protocol.api_webhooks import NewWebhook, WebhookChange
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.context import Keyring
from framefarm.server.database import Tx
from framefarm.server.events import service as events
from framefarm.server.ids import new_id
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso
from framefarm.server.webhooks.tables import webhook_deliveries as deliveries
from framefarm.server.webhooks.tables import webhooks

MOST = 50
"""Webhooks an account may have."""
GIVE_UP_MS = 24 * 3_600_000
CLAIM_MS = 30_000
"""A delivery in work is nobody else's for so long; after a crash it is tried again then."""
PAUSES_SECONDS = (1, 2, 5, 10, 15, 15, 15, 30, 30, 60, 300, 900, 3600)
"""Between tries: the n-th pause, then the last one again and again until a day has passed."""
PLANNED_AT_ONCE = 500


def secret(keys: Keyring, webhook_id: str, number: int) -> str:
    """The signing secret, as the Standard Webhooks libraries take it. Derived: it is stored nowhere."""
    return "whsec_" + base64.b64encode(keys.key(f"webhook {webhook_id} {number}")).decode()


# --------------------------------------------------------------------------------- people


def _find(tx: Tx, actor: Actor, webhook_id: str) -> Any:
    query = scoped(sa.select(webhooks), webhooks, actor.account_id).where(webhooks.c.id == webhook_id)
    row = tx.conn.execute(query.with_for_update()).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no webhook {webhook_id}.")
    return row


def create(tx: Tx, keys: Keyring, actor: Actor, said: NewWebhook) -> dict[str, Any]:
    """A webhook gets the events from now on. Its secret is in this answer only."""
    accounts.lock(tx, actor.account_id)
    count = scoped(sa.select(sa.func.count()).select_from(webhooks), webhooks, actor.account_id)
    if tx.conn.execute(count).scalar_one() >= MOST:
        raise Conflict(f"An account has at most {MOST} webhooks: delete one first.")
    row: dict[str, Any] = {
        "id": new_id("whk"),
        "account_id": actor.account_id,
        "url": said.url,
        "description": said.description,
        "types": said.events,
        "enabled": said.enabled,
        "secret_number": 1,
        "position": events.newest(tx),
        "created_ms": tx.now_ms,
    }
    tx.conn.execute(sa.insert(webhooks).values(row))
    after = {"url": said.url, "events": said.events, "enabled": said.enabled}
    audit(tx, actor, "webhook.create", row["id"], after=after)
    return _shape(tx, row) | {"secret": secret(keys, row["id"], 1)}


def change(tx: Tx, keys: Keyring, actor: Actor, webhook_id: str, said: WebhookChange) -> dict[str, Any]:
    """Deliveries that wait go to the new address. One that was disabled gets no events of that time."""
    row = dict(_find(tx, actor, webhook_id))
    given = said.model_dump(exclude_none=True, exclude={"rotate_secret"})
    values = {{"events": "types"}.get(name, name): value for name, value in given.items()}
    if said.rotate_secret:
        values["secret_number"] = row["secret_number"] + 1
    if said.enabled and not row["enabled"]:
        values["position"] = events.newest(tx)
    if values:
        mine = scoped(sa.update(webhooks), webhooks, actor.account_id).where(webhooks.c.id == webhook_id)
        tx.conn.execute(mine.values(values))
        before = {name: row[{"events": "types"}.get(name, name)] for name in given}
        after = given | ({"secret": "changed"} if said.rotate_secret else {})
        audit(tx, actor, "webhook.change", webhook_id, before=before, after=after)
        tx.wake("webhooks")
    row |= values
    shown = secret(keys, webhook_id, row["secret_number"]) if said.rotate_secret else None
    return _shape(tx, row) | {"secret": shown}


def delete(tx: Tx, actor: Actor, webhook_id: str) -> None:
    """Its deliveries go with it."""
    row = _find(tx, actor, webhook_id)
    mine = scoped(sa.delete(deliveries), deliveries, actor.account_id)
    tx.conn.execute(mine.where(deliveries.c.webhook_id == webhook_id))
    own = scoped(sa.delete(webhooks), webhooks, actor.account_id)
    tx.conn.execute(own.where(webhooks.c.id == webhook_id))
    before = {"url": row["url"], "events": row["types"]}
    audit(tx, actor, "webhook.delete", webhook_id, before=before)


def listing(tx: Tx, actor: Actor, after: str, limit: int) -> list[dict[str, Any]]:
    query = scoped(sa.select(webhooks), webhooks, actor.account_id).where(webhooks.c.id > after)
    return [_shape(tx, row) for row in tx.conn.execute(query.order_by(webhooks.c.id).limit(limit)).mappings()]


def one(tx: Tx, actor: Actor, webhook_id: str) -> dict[str, Any]:
    return _shape(tx, _find(tx, actor, webhook_id))


def _shape(tx: Tx, row: Any) -> dict[str, Any]:
    count = sa.select(deliveries.c.status, sa.func.count().label("number")).group_by(deliveries.c.status)
    mine = farmwide(count).where(deliveries.c.webhook_id == row["id"], deliveries.c.status != "delivered")
    counts = {row.status: row.number for row in tx.conn.execute(mine)}
    return {
        "id": row["id"],
        "url": row["url"],
        "events": row["types"],
        "description": row["description"],
        "enabled": row["enabled"],
        "created_at": iso(row["created_ms"]),
        "pending": counts.get("pending", 0),
        "failed": counts.get("failed", 0),
    }


def delivery_page(
    tx: Tx, actor: Actor, webhook_id: str, status: str | None, before: int | None, limit: int
) -> list[tuple[int, dict[str, Any]]]:
    """(event id, delivery), newest first."""
    _find(tx, actor, webhook_id)
    query = scoped(sa.select(deliveries), deliveries, actor.account_id).where(
        deliveries.c.webhook_id == webhook_id
    )
    if status is not None:
        query = query.where(deliveries.c.status == status)
    if before is not None:
        query = query.where(deliveries.c.event_id < before)
    rows = tx.conn.execute(query.order_by(deliveries.c.event_id.desc()).limit(limit)).mappings()
    return [(row["event_id"], delivery_shape(row)) for row in rows]


def delivery_shape(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "webhook": row["webhook_id"],
        "job": row["job_id"],
        "event_type": row["type"],
        "status": row["status"],
        "attempts": row["attempts"],
        "created_at": iso(row["created_ms"]),
        "last_attempt_at": iso(row["tried_ms"]),
        "next_attempt_at": iso(row["next_ms"]),
        "response_status": row["response_status"],
        "error": row["error"],
    }


def send_again(tx: Tx, actor: Actor, webhook_id: str, delivery_id: str) -> dict[str, Any]:
    """A delivery that has ended is sent once more, under its own id, and waits for no other."""
    _find(tx, actor, webhook_id)
    mine = (deliveries.c.webhook_id == webhook_id) & (deliveries.c.id == delivery_id)
    query = scoped(sa.select(deliveries), deliveries, actor.account_id).where(mine)
    row = tx.conn.execute(query.with_for_update()).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Webhook {webhook_id} has no delivery {delivery_id}.")
    if row["status"] == "pending":
        raise Conflict("This delivery is pending: it will be tried by itself.", state="pending")
    values = {
        "status": "pending", "in_order": False, "next_ms": tx.now_ms, "give_up_ms": tx.now_ms + GIVE_UP_MS,
    }  # fmt: skip
    tx.conn.execute(scoped(sa.update(deliveries), deliveries, actor.account_id).where(mine).values(values))
    audit(tx, actor, "webhook.resend", delivery_id)
    tx.wake("webhooks")
    return delivery_shape(dict(row) | values)


# ------------------------------------------------------------------------------- the farm


def any_enabled(tx: Tx) -> bool:
    return (
        tx.conn.execute(farmwide(sa.select(webhooks.c.id)).where(webhooks.c.enabled).limit(1)).first()
        is not None
    )


def wants(types: list[str], kind: str) -> bool:
    return "*" in types or kind in types or f"{kind.partition('.')[0]}.*" in types


def plan(tx: Tx, up_to: int) -> bool:
    """Write down the deliveries of events up to an id; whether there may be more of them."""
    more = False
    query = farmwide(sa.select(webhooks)).where(webhooks.c.enabled, webhooks.c.position < up_to)
    for hook in tx.conn.execute(query.with_for_update()).mappings().all():
        rows = events.account_page(tx, hook["account_id"], hook["position"], up_to, PLANNED_AT_ONCE)
        full = len(rows) == PLANNED_AT_ONCE
        more = more or full
        _queue(tx, hook, [row for row in rows if wants(hook["types"], row["type"])])
        # Without events of the account there is nothing to write: the same stretch is looked at again.
        if rows:
            position = rows[-1]["id"] if full else up_to
            mine = farmwide(sa.update(webhooks)).where(webhooks.c.id == hook["id"])
            tx.conn.execute(mine.values(position=position))
    return more


def _queue(tx: Tx, hook: Any, wanted: list[Any]) -> None:
    """Deliveries of these events: the first of each job is due now, unless an older one still waits."""
    if not wanted:
        return
    heads = farmwide(sa.select(deliveries.c.job_id)).where(
        deliveries.c.webhook_id == hook["id"],
        deliveries.c.next_ms.is_not(None),
        deliveries.c.in_order,
        deliveries.c.job_id.in_({row["job_id"] for row in wanted}),
    )
    behind = set(tx.conn.execute(heads).scalars())
    made = []
    for row in wanted:
        made.append(
            {
                "id": new_id("dlv"),
                "account_id": hook["account_id"],
                "webhook_id": hook["id"],
                "event_id": row["id"],
                "job_id": row["job_id"],
                "type": row["type"],
                "status": "pending",
                "in_order": True,
                "attempts": 0,
                "created_ms": tx.now_ms,
                "give_up_ms": tx.now_ms + GIVE_UP_MS,
                "next_ms": None if row["job_id"] in behind else tx.now_ms,
            }
        )
        behind.add(row["job_id"])
    tx.conn.execute(sa.insert(deliveries), made)


def take(tx: Tx, limit: int, busy: set[str]) -> tuple[list[dict[str, Any]], int | None]:
    """Claim what is due. Returns (deliveries with their webhook and event, when the next is due in ms or
    None). `busy`: webhooks that have enough in work."""
    query = farmwide(
        sa.select(deliveries, webhooks.c.url, webhooks.c.secret_number).join(
            webhooks, webhooks.c.id == deliveries.c.webhook_id
        )
    ).where(
        deliveries.c.next_ms.is_not(None),
        webhooks.c.enabled,
        deliveries.c.webhook_id.not_in(sorted(busy)),
    )
    claim = query.order_by(deliveries.c.next_ms, deliveries.c.event_id).limit(limit)
    heads = tx.conn.execute(claim.with_for_update(of=deliveries, skip_locked=True)).mappings().all()
    due = [dict(row) for row in heads if row["next_ms"] <= tx.now_ms]
    later = min((row["next_ms"] for row in heads if row["next_ms"] > tx.now_ms), default=None)
    if due:
        key = deliveries.c.id.in_([row["id"] for row in due])
        tx.conn.execute(farmwide(sa.update(deliveries)).where(key).values(next_ms=tx.now_ms + CLAIM_MS))
        found = events.by_ids(tx, [row["event_id"] for row in due])
        for row in due:
            row["event"] = found.get(row["event_id"])
    return due, later


def settle(tx: Tx, row: dict[str, Any], response_status: int | None, error: str | None) -> str:
    """What became of a try: delivered, again later, or failed after a day. Returns the status."""
    hook = farmwide(sa.select(webhooks.c.id)).where(webhooks.c.id == row["webhook_id"])
    tx.conn.execute(hook.with_for_update())  # `plan` looks at who is ahead under the same lock
    attempts = row["attempts"] + 1
    values: dict[str, Any] = {
        "attempts": attempts,
        "tried_ms": tx.now_ms,
        "response_status": response_status,
        "error": error,
    }
    status = "delivered" if error is None else "failed" if tx.now_ms >= row["give_up_ms"] else "pending"
    if status == "pending":
        pause = PAUSES_SECONDS[min(attempts, len(PAUSES_SECONDS)) - 1]
        values["next_ms"] = min(tx.now_ms + pause * 1000, max(row["give_up_ms"], tx.now_ms + 1000))
    else:
        values |= {"status": status, "next_ms": None}
    mine = (deliveries.c.id == row["id"]) & (deliveries.c.status == "pending")
    tx.conn.execute(farmwide(sa.update(deliveries)).where(mine).values(values))
    if status == "failed":
        _expire(tx, row)
    if status != "pending" and row["in_order"]:
        _promote(tx, row)
    return status


def _expire(tx: Tx, row: dict[str, Any]) -> None:
    """Those of the job that waited behind a failed one for a day are as late: they get their last word."""
    waited = farmwide(sa.update(deliveries)).where(
        deliveries.c.webhook_id == row["webhook_id"],
        deliveries.c.job_id == row["job_id"],
        deliveries.c.status == "pending",
        deliveries.c.next_ms.is_(None),
        deliveries.c.give_up_ms <= tx.now_ms,
    )
    text = "not tried: the receiver took no earlier event of this job for a day"
    tx.conn.execute(waited.values(status="failed", error=text))


def _promote(tx: Tx, row: dict[str, Any]) -> None:
    """The job's next one is due."""
    same = (deliveries.c.webhook_id == row["webhook_id"]) & (deliveries.c.job_id == row["job_id"])
    waiting = same & (deliveries.c.status == "pending") & deliveries.c.next_ms.is_(None)
    first = farmwide(sa.select(deliveries.c.id)).where(waiting).order_by(deliveries.c.event_id).limit(1)
    head = deliveries.c.id == first.scalar_subquery()
    tx.conn.execute(farmwide(sa.update(deliveries)).where(head).values(next_ms=tx.now_ms))


def forgettable(tx: Tx) -> int:
    """How many deliveries `forget` would remove in the end."""
    gone = deliveries.c.event_id <= events.position(tx, events.TRIMMED)
    query = farmwide(sa.select(sa.func.count()).select_from(deliveries))
    return int(tx.conn.execute(query.where(gone, deliveries.c.status != "pending")).scalar_one())


def forget(tx: Tx, limit: int) -> int:
    """Deliveries go with their events, at most `limit` (of several hooks a few more); how many."""
    gone = events.position(tx, events.TRIMMED)
    old = deliveries.c.event_id.in_(
        farmwide(sa.select(deliveries.c.event_id))
        .where(deliveries.c.event_id <= gone, deliveries.c.status != "pending")
        .order_by(deliveries.c.event_id)
        .limit(limit)
    )
    done = farmwide(sa.delete(deliveries)).where(old, deliveries.c.status != "pending")
    return tx.conn.execute(done).rowcount


def queued(tx: Tx) -> int:
    count = farmwide(sa.select(sa.func.count()).select_from(deliveries))
    return int(tx.conn.execute(count.where(deliveries.c.status == "pending")).scalar_one())
