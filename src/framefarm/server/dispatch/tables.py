"""Lease of the leader, the one of several dispatchers that decides."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

leaders = sa.Table(
    "leaders",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("ticked_ms", sa.BigInteger, nullable=False),
)
