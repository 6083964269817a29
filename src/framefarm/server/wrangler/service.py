"""Wrangler rules of an account as its admins make them. `rule_engine.py` applies them."""

from __future__ import annotations

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
from framefarm.server.json_types import Answer
from framefarm.server.nodes.tables import nodes
from framefarm.server.rows import RuleActionRow, RuleRow
from framefarm.server.tenancy import farmwide, scoped
from framefarm.server.timestamps import iso
from framefarm.server.wrangler.tables import wrangler_actions, wrangler_rules

NewRule = MaxTaskRuntime | SpotToOnDemand | StalledUpload | ChangeZone
RULES_PER_ACCOUNT = 100


def create(tx: Tx, actor: Actor, body: NewRule) -> Answer:
    """Add a rule. Raises InvalidInput for a rule that this farm can't apply or that would do nothing."""
    if isinstance(body, ChangeZone):
        known = zones(tx)
        if known:
            text = (
                f"nothing to move: each job takes machines of every zone from the start ({', '.join(known)})"
            )
        else:
            text = "no engine of this farm knows zones: its machines are all in one place"
        raise InvalidInput.of("kind", text, body.kind)
    if isinstance(body, StalledUpload):
        _check_upload(body)
    accounts.lock(tx, actor.account_id)
    count = scoped(sa.select(sa.func.count()).select_from(wrangler_rules), wrangler_rules, actor.account_id)
    if tx.conn.execute(count).scalar_one() >= RULES_PER_ACCOUNT:
        raise InvalidInput.of("kind", f"an account may have {RULES_PER_ACCOUNT} rules at most", body.kind)
    rule_id = new_id("rul")
    terms = body.model_dump(exclude={"kind", "enabled"})
    tx.conn.execute(
        sa.insert(wrangler_rules).values(
            id=rule_id,
            account_id=actor.account_id,
            kind=body.kind,
            terms=terms,
            enabled=body.enabled,
            created_ms=tx.now_ms,
            created_by=actor.user_id,
        )
    )
    audit(tx, actor, "rule.create", rule_id, after=body.model_dump())
    return find(tx, actor, rule_id)


def zones(tx: Tx) -> list[str]:
    """Zones of the present nodes; empty if no engine knows zones."""
    query = sa.select(nodes.c.zone).where(nodes.c.present, nodes.c.zone != "").distinct()
    return sorted(tx.conn.execute(query).scalars())


def _check_upload(body: StalledUpload) -> None:
    remind, fail = body.remind_after_seconds, body.fail_after_seconds
    if remind is None and fail is None:
        raise InvalidInput.of("remind_after_seconds", "give a time to remind after, or to fail after", None)
    if remind is not None and fail is not None and fail <= remind:
        raise InvalidInput.of("fail_after_seconds", "must be more than remind_after_seconds", fail)


def listing(tx: Tx, account_id: str, after: str, limit: int) -> list[Answer]:
    """Rules of an account with ids above `after`, oldest first, with their last action."""
    query = scoped(sa.select(wrangler_rules), wrangler_rules, account_id).where(wrangler_rules.c.id > after)
    rows = tx.rows(RuleRow, query.order_by(wrangler_rules.c.id).limit(limit))
    return [_shape(tx, row) for row in rows]


def find(tx: Tx, actor: Actor, rule_id: str) -> Answer:
    """One rule. Raises NotFound, also for a rule of another account."""
    return _shape(tx, _row(tx, actor, rule_id))


def _row(tx: Tx, actor: Actor, rule_id: str) -> RuleRow:
    query = scoped(sa.select(wrangler_rules), wrangler_rules, actor.account_id)
    row = tx.row_or_none(RuleRow, query.where(wrangler_rules.c.id == rule_id))
    if row is None:
        raise NotFound(f"There is no rule {rule_id}.")
    return row


def _shape(tx: Tx, row: RuleRow) -> Answer:
    of_rule = wrangler_actions.c.rule_id == row.id
    count = farmwide(sa.select(sa.func.count()).select_from(wrangler_actions)).where(of_rule)
    latest = farmwide(sa.select(wrangler_actions)).where(of_rule).order_by(wrangler_actions.c.at_ms.desc())
    last = tx.row_or_none(RuleActionRow, latest.limit(1))
    return {
        "id": row.id,
        "kind": row.kind,
        "terms": row.terms,
        "enabled": row.enabled,
        "created_at": iso(row.created_ms),
        "acted": tx.conn.execute(count).scalar_one(),
        "last_at": iso(last.at_ms) if last else None,
        "last_reason": last.reason if last else None,
    }


def change(tx: Tx, actor: Actor, rule_id: str, body: RuleChange) -> Answer:
    """Switch a rule on or off. Raises NotFound."""
    row = _row(tx, actor, rule_id)
    if row.enabled != body.enabled:
        statement = scoped(sa.update(wrangler_rules), wrangler_rules, actor.account_id)
        tx.conn.execute(statement.where(wrangler_rules.c.id == rule_id).values(enabled=body.enabled))
        after = {"enabled": body.enabled}
        audit(tx, actor, "rule.change", rule_id, before={"enabled": row.enabled}, after=after)
    return find(tx, actor, rule_id)


def delete(tx: Tx, actor: Actor, rule_id: str) -> None:
    """Remove a rule; its actions stay in the jobs' events and in the audit. Raises NotFound."""
    row = _row(tx, actor, rule_id)
    tx.conn.execute(farmwide(sa.delete(wrangler_actions)).where(wrangler_actions.c.rule_id == rule_id))
    statement = scoped(sa.delete(wrangler_rules), wrangler_rules, actor.account_id)
    tx.conn.execute(statement.where(wrangler_rules.c.id == rule_id))
    audit(tx, actor, "rule.delete", rule_id, before={"kind": row.kind} | row.terms)
