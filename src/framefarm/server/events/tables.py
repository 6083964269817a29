"""Positions of the readers of `events` that survive a restart."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

reader_positions = sa.Table(
    "reader_positions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # mail | trimmed
    sa.Column("position", sa.BigInteger, nullable=False),  # id of the last event that it has handled
)
