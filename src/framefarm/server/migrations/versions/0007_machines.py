"""Machines that are set aside, and why a session was preempted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

FAILED = sa.text("outcome IN ('failed', 'lost', 'timed_out')")


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("leaving_ms", sa.BigInteger(), nullable=True),
        sa.Column("standing", sa.Text(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("counted_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=True),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_index(
        "ix_attempts_failed", "attempts", ["ended_ms"], sqlite_where=FAILED, postgresql_where=FAILED
    )
    op.create_index("ix_sessions_ended_ms", "sessions", ["ended_ms"])
    op.add_column("sessions", sa.Column("taken", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("sessions") as batch:
        batch.drop_column("taken")
    op.drop_index("ix_sessions_ended_ms", "sessions")
    op.drop_index("ix_attempts_failed", "attempts")
    op.drop_table("nodes")
