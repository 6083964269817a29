"""Budgets, the reservations of sessions in them, and the jobs that they hold."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("project_id", sa.Text),  # of one project; else
    sa.Column("job_id", sa.Text),  # of one job; else of the whole account
    sa.Column("period", sa.Text, nullable=False, info={"row": 'Literal["month", "total"]'}),  # month: of UTC
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Column("warn_at", sa.Integer),  # percent of the amount
    sa.Column("hold_at", sa.Integer),
    sa.Column("cancel_at", sa.Integer),
    sa.Column("mode", sa.Text, nullable=False, info={"row": 'Literal["drain", "stop"]'}),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column(
        "counted", sa.Boolean, nullable=False
    ),  # `spent_micros` includes what was spent before it was made
    sa.Column("period_start_ms", sa.BigInteger, nullable=False),  # 0 for a total
    sa.Column(
        "spent_micros", sa.BigInteger, nullable=False
    ),  # cost of ended attempts, as of the last settling
    sa.Column("reserved_micros", sa.BigInteger, nullable=False),  # the sum of its reservations
    sa.Column("warned", sa.Boolean, nullable=False),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("budget_id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column(
        "settled_micros", sa.BigInteger, nullable=False
    ),  # part of the session's cost already counted as spent
    sa.Column(
        "held_micros", sa.BigInteger, nullable=False
    ),  # reserved and not spent yet, as of the last settling
    sa.Index("ix_reservations_budget_id", "budget_id"),
)

budget_holds = sa.Table(
    "budget_holds",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("budget_id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("limit_micros", sa.BigInteger),  # limit of the budget at `at_ms`
    sa.Column("period_start_ms", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)
