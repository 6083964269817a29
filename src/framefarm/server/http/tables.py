"""Table of answers to requests with an `Idempotency-Key`, kept for a day."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("method", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body_sha256", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("answer", sa.JSON),
    sa.Column("created_ms", sa.BigInteger, nullable=False, index=True),
)
