"""An account's wrangler rules as its admins make them. What they do is in `rule_engine.py`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.protocol.api_wrangler import (
    ChangeZone,
    MaxTaskRuntime,
    RuleChange,
    SpotToOnDemand,
    StalledUpload,
)
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.nodes.tables import nodes
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso
from framefarm.server.wrangler.tables import wrangler_actions, wrangler_rules

Said = MaxTaskRuntime | SpotToOnDemand | StalledUpload | ChangeZone
MOST = 100
"""Rules an account may have."""


def create(tx: Tx, actor: Actor, said: Said) -> dict[str, Any]:
    """Raises InvalidInput: a rule that this farm can't follow, or that would do nothing."""
    if isinstance(said, ChangeZone):
        known = zones(tx)
        if known:
            text = (
                f"nothing to move: each job takes machines of every zone from the start ({', '.join(known)})"
            )
        else:
            text = "no engine of this farm knows zones: its machines are all in one place"
        raise InvalidInput.of("kind", text, said.kind)
    if isinstance(said, StalledUpload):
        _check_upload(said)
    accounts.lock(tx, actor.account_id)
    count = scoped(sa.select(sa.func.count()).select_from(wrangler_rules), wrangler_rules, actor.account_id)
    if tx.conn.execute(count).scalar_one() >= MOST:
        raise InvalidInput.of("kind", f"an account may have {MOST} rules at most", said.kind)
    rule_id = new_id("rul")
    terms = said.model_dump(exclude={"kind", "enabled"})
    tx.conn.execute(
        sa.insert(wrangler_rules).values(
            id=rule_id,
            account_id=actor.account_id,
            kind=said.kind,
            terms=terms,
            enabled=said.enabled,
            created_ms=tx.now_ms,
            created_by=actor.user_id,
        )
    )
    _told(tx, actor, "rule.create", rule_id, None, said.model_dump())
    return find(tx, actor, rule_id)


def zones(tx: Tx) -> list[str]:
    """The zones that machines are in; empty where no engine knows any."""
    query = sa.select(nodes.c.zone).where(nodes.c.present, nodes.c.zone != "").distinct()
    return sorted(tx.conn.execute(query).scalars())


def _check_upload(said: StalledUpload) -> None:
    remind, fail = said.remind_after_seconds, said.fail_after_seconds
    if remind is None and fail is None:
        raise InvalidInput.of("remind_after_seconds", "give a time to remind after, or to fail after", None)
    if remind is not None and fail is not None and fail <= remind:
        raise InvalidInput.of("fail_after_seconds", "must be more than remind_after_seconds", fail)


def listing(tx: Tx, account_id: str, after: str, limit: int) -> list[dict[str, Any]]:
    """Oldest first, with what each has done."""
    query = scoped(sa.select(wrangler_rules), wrangler_rules, account_id).where(wrangler_rules.c.id > after)
    rows = tx.conn.execute(query.order_by(wrangler_rules.c.id).limit(limit)).mappings().all()
    return [_shape(tx, row) for row in rows]


def find(tx: Tx, actor: Actor, rule_id: str) -> dict[str, Any]:
    """Raises NotFound, for another account's too."""
    return _shape(tx, _row(tx, actor, rule_id))


def _row(tx: Tx, actor: Actor, rule_id: str) -> Any:
    query = scoped(sa.select(wrangler_rules), wrangler_rules, actor.account_id)
    row = tx.conn.execute(query.where(wrangler_rules.c.id == rule_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no rule {rule_id}.")
    return row


def _shape(tx: Tx, row: Any) -> dict[str, Any]:
    mine = wrangler_actions.c.rule_id == row["id"]
    count = farmwide(sa.select(sa.func.count()).select_from(wrangler_actions)).where(mine)
    latest = farmwide(sa.select(wrangler_actions)).where(mine).order_by(wrangler_actions.c.at_ms.desc())
    last = tx.conn.execute(latest.limit(1)).mappings().one_or_none()
    return {
        "id": row["id"],
        "kind": row["kind"],
        "terms": row["terms"],
        "enabled": row["enabled"],
        "created_at": iso(row["created_ms"]),
        "acted": tx.conn.execute(count).scalar_one(),
        "last_at": iso(last["at_ms"]) if last else None,
        "last_reason": last["reason"] if last else None,
    }


def change(tx: Tx, actor: Actor, rule_id: str, said: RuleChange) -> dict[str, Any]:
    """Switch a rule on or off."""
    row = _row(tx, actor, rule_id)
    if row["enabled"] != said.enabled:
        mine = scoped(sa.update(wrangler_rules), wrangler_rules, actor.account_id)
        tx.conn.execute(mine.where(wrangler_rules.c.id == rule_id).values(enabled=said.enabled))
        _told(tx, actor, "rule.change", rule_id, {"enabled": row["enabled"]}, {"enabled": said.enabled})
    return find(tx, actor, rule_id)


def delete(tx: Tx, actor: Actor, rule_id: str) -> None:
    """What it did stays in the jobs' events and in the audit."""
    row = _row(tx, actor, rule_id)
    tx.conn.execute(farmwide(sa.delete(wrangler_actions)).where(wrangler_actions.c.rule_id == rule_id))
    mine = scoped(sa.delete(wrangler_rules), wrangler_rules, actor.account_id)
    tx.conn.execute(mine.where(wrangler_rules.c.id == rule_id))
    _told(tx, actor, "rule.delete", rule_id, {"kind": row["kind"]} | row["terms"], None)


def _told(tx: Tx, actor: Actor, action: str, rule_id: str, before: Any, after: Any) -> None:
    audit(tx, actor, action, rule_id, before=before, after=after)
