"""A job's cost beside its state; indexes for what is looked for among all there ever was"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "job_state", sa.Column("cost_micros", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    )
    op.execute(
        "UPDATE job_state SET cost_micros = coalesce((SELECT sum(attempts.cost_micros) FROM attempts"
        " WHERE attempts.job_id = job_state.job_id), 0)"
    )
    op.create_index("ix_attempts_account_id_ended_ms", "attempts", ["account_id", "ended_ms"])
    op.create_index("ix_jobs_output_url", "jobs", ["output_url"])
    op.create_index("ix_files_job_id_path", "files", ["job_id", "path"])


def downgrade() -> None:
    op.drop_index("ix_files_job_id_path", "files")
    op.drop_index("ix_jobs_output_url", "jobs")
    op.drop_index("ix_attempts_account_id_ended_ms", "attempts")
    op.drop_column("job_state", "cost_micros")
