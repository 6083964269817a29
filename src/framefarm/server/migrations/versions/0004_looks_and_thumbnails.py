"""Measures of rendered frames, and their thumbnails"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("frames", sa.Column("look", sa.Text(), nullable=True))
    op.add_column("frames", sa.Column("thumbnail_bytes", sa.Integer(), nullable=True))
