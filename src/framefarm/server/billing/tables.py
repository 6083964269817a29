"""The ledger: double entry, append only. The postings of each transaction sum to zero."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

ledger_transactions = sa.Table(
    "ledger_transactions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),  # per account, in posting order
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # charge | payment | credit | refund | adjustment
    sa.Column(
        "amount_micros", sa.BigInteger, nullable=False
    ),  # from the account's side: charges are negative
    sa.Column("balance_micros", sa.BigInteger, nullable=False),  # of the account, after this
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text),
    sa.Column("hour_ms", sa.BigInteger),
    sa.Column("sequence", sa.Integer),
    sa.Column("actor", sa.Text, nullable=False),
    sa.UniqueConstraint("account_id", "number"),
    sa.UniqueConstraint("job_id", "hour_ms", "sequence"),
)

ledger_postings = sa.Table(
    "ledger_postings",
    metadata,
    sa.Column("transaction_id", sa.Text, sa.ForeignKey("ledger_transactions.id"), primary_key=True),
    sa.Column("book", sa.Text, primary_key=True),  # account:<id> | revenue | cash | credits
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("amount_micros", sa.BigInteger, nullable=False),
    sa.Index("ix_ledger_postings_book", "book"),
)
