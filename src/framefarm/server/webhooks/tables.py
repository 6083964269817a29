"""Webhooks of an account, and one delivery for each webhook and event."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.delivery import DeliveryStatus
from framefarm.server.database import EnumText, metadata

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("types", sa.JSON, nullable=False, info={"row": "list[str]"}),  # event types; ["*"] is all
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("secret_number", sa.Integer, nullable=False),  # the secret is derived from it, never stored
    sa.Column("position", sa.BigInteger, nullable=False),  # id of the last event read for it
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("webhook_id", sa.Text, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("event_id", sa.BigInteger, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("status", EnumText(DeliveryStatus), nullable=False),
    sa.Column("in_order", sa.Boolean, nullable=False),  # false: sent again by hand, outside the job's order
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("give_up_ms", sa.BigInteger, nullable=False),
    sa.Column(
        "next_ms", sa.BigInteger
    ),  # of the next attempt; null: ended, or behind an older one of its job
    sa.Column("tried_ms", sa.BigInteger),
    sa.Column("response_status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("webhook_id", "event_id"),
    sa.Index(
        "ix_webhook_deliveries_pending",
        "webhook_id",
        "job_id",
        "event_id",
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    ),
    sa.Index(
        "ix_webhook_deliveries_due",
        "next_ms",
        sqlite_where=sa.text("next_ms IS NOT NULL"),
        postgresql_where=sa.text("next_ms IS NOT NULL"),
    ),
    sa.Index("ix_webhook_deliveries_event_id", "event_id"),
)
