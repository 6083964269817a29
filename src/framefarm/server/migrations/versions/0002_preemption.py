"""Preemption: until when a session's slot must be free"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("preempt_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "preempt_ms")
