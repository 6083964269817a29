"""Table of projects: the names that group an account's jobs and costs."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False, info={"row": 'Literal["active", "archived"]'}),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.UniqueConstraint("account_id", "name"),
)
