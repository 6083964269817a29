"""Positions of those who read `events`, and how far each frame in work is."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

reader_positions = sa.Table(
    "reader_positions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # mail | trimmed
    sa.Column("position", sa.BigInteger, nullable=False),  # id of the last event it is done with
)

progress = sa.Table(  # the latest value only, written at most once a second
    "progress",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("attempt_id", sa.Text, nullable=False),
    sa.Column("frame", sa.Integer, nullable=False),
    sa.Column("fraction", sa.Float, nullable=False),  # 0 to 1
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_progress_job_id", "job_id"),
)
