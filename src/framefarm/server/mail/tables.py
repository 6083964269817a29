"""Mails: one for each job and state that it reached."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.delivery import MailStatus
from framefarm.server.database import EnumText, metadata

mails = sa.Table(
    "mails",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("state", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("event_id", sa.BigInteger, nullable=False),
    sa.Column("status", EnumText(MailStatus), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("next_ms", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text),
    sa.Index(
        "ix_mails_pending",
        "next_ms",
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    ),
)
