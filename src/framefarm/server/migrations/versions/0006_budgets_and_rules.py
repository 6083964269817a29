"""Budgets, wrangler rules, and running sums for the forecast"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budget_holds",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("limit_micros", sa.BigInteger(), nullable=True),
        sa.Column("period_start_ms", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "budget_id", name=op.f("pk_budget_holds")),
    )
    op.create_table(
        "reservations",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("settled_micros", sa.BigInteger(), nullable=False),
        sa.Column("held_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "budget_id", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_budget_id", "reservations", ["budget_id"], unique=False)
    op.create_table(
        "wrangler_actions",
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("rule_id", "job_id", "subject", name=op.f("pk_wrangler_actions")),
    )
    op.create_index(
        "ix_wrangler_actions_account_id_at_ms", "wrangler_actions", ["account_id", "at_ms"], unique=False
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("warn_at", sa.Integer(), nullable=True),
        sa.Column("hold_at", sa.Integer(), nullable=True),
        sa.Column("cancel_at", sa.Integer(), nullable=True),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("period_start_ms", sa.BigInteger(), nullable=False),
        sa.Column("spent_micros", sa.BigInteger(), nullable=False),
        sa.Column("reserved_micros", sa.BigInteger(), nullable=False),
        sa.Column("warned", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_budgets_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
    )
    op.create_index(op.f("ix_budgets_account_id"), "budgets", ["account_id"], unique=False)
    op.create_table(
        "wrangler_rules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_wrangler_rules_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wrangler_rules")),
    )
    op.create_index(op.f("ix_wrangler_rules_account_id"), "wrangler_rules", ["account_id"], unique=False)
    op.add_column("job_state", sa.Column("timed_frames", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("timed_ms", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("timed_squares", sa.Double(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("billed_frames", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("billed_ms", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("loads", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("load_ms", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("job_state", sa.Column("arrived_ms", sa.BigInteger(), nullable=True))
    op.add_column("sessions", sa.Column("spent_micros", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("sessions", sa.Column("cost_cap_micros", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for table, names in {
        "sessions": ("cost_cap_micros", "spent_micros"),
        "job_state": (
            "arrived_ms", "load_ms", "loads", "billed_ms", "billed_frames", "timed_squares", "timed_ms",
            "timed_frames",
        ),
    }.items():  # fmt: skip
        with op.batch_alter_table(table) as batch:
            for name in names:
                batch.drop_column(name)
    for table in ("wrangler_rules", "budgets", "wrangler_actions", "reservations", "budget_holds"):
        op.drop_table(table)
