"""Columns and indexes of retention"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CONDEMNED = sa.text("condemned_ms IS NOT NULL")
DELETED = sa.text("deleted_ms IS NOT NULL AND emptied_ms IS NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("emptied_ms", sa.BigInteger(), nullable=True))
    op.create_index("ix_jobs_deleted", "jobs", ["deleted_ms"], sqlite_where=DELETED, postgresql_where=DELETED)
    op.create_index("ix_jobs_account_id_manifest_sha256", "jobs", ["account_id", "manifest_sha256"])
    op.create_index("ix_registrations_account_id_sha256", "registrations", ["account_id", "sha256"])
    op.create_index(
        "ix_contents_condemned",
        "contents",
        ["condemned_ms"],
        sqlite_where=CONDEMNED,
        postgresql_where=CONDEMNED,
    )


def downgrade() -> None:
    op.drop_index("ix_contents_condemned", "contents")
    op.drop_index("ix_registrations_account_id_sha256", "registrations")
    op.drop_index("ix_jobs_account_id_manifest_sha256", "jobs")
    op.drop_index("ix_jobs_deleted", "jobs")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("emptied_ms")
