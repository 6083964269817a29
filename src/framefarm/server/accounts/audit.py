"""The audit: one row for each change, with its actor, written in the change's own transaction."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.accounts.tables import audit as audit_table
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.json_types import Json


def audit(
    tx: Tx,
    actor: Actor | str,
    action: str,
    target: str = "",
    *,
    account_id: str | None = None,
    before: Json = None,  # free JSON: each change has fields of its own
    after: Json = None,
    request_id: str = "",
) -> None:
    """Append a row to the audit. `before` and `after` are the changed values, without secrets.

    `actor`: a caller, whose account and request are recorded; or a name (`operator`, `system`, `rule:…`,
    `budget:…`), then with the `account_id` that was acted on.
    """
    if isinstance(actor, Actor):
        name, account_id, request_id = actor.name, actor.account_id, actor.request_id
    else:
        name = actor
    tx.conn.execute(
        sa.insert(audit_table).values(
            at_ms=tx.now_ms,
            account_id=account_id,
            actor=name,
            request_id=request_id,
            action=action,
            target=target,
            before=before,
            after=after,
        )
    )
