"""Wrangler rules of an account, and their actions: one for each subject, so that a rule acts once on it."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

wrangler_rules = sa.Table(
    "wrangler_rules",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),  # max_task_runtime | spot_to_on_demand | stalled_upload
    sa.Column("terms", sa.JSON, nullable=False, info={"row": "dict[str, Json]"}),  # fields of the kind
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
)

wrangler_actions = sa.Table(
    "wrangler_actions",
    metadata,
    sa.Column("rule_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),  # an attempt, a wait, a stalled upload
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),  # one sentence
    sa.Index("ix_wrangler_actions_account_id_at_ms", "account_id", "at_ms"),
)
