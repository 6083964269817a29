"""Tables of accounts, users, tokens and the audit."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False, server_default="USD"),
    sa.Column("credit_limit_micros", sa.BigInteger),
    sa.Column("allow_scripts", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("quota_bytes", sa.BigInteger),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("email", sa.Text, nullable=False, unique=True),  # lower case
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False, info={"row": 'Literal["admin", "member"]'}),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("disabled_ms", sa.BigInteger),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False, info={"row": 'Literal["login", "key"]'}),
    sa.Column("hash", sa.Text, nullable=False, unique=True),  # keyed hash of the token
    sa.Column("name", sa.Text, nullable=False, server_default=""),
    sa.Column("hint", sa.Text, nullable=False, server_default=""),  # the token's last four characters
    # never above the user's role
    sa.Column("role", sa.Text, nullable=False, info={"row": 'Literal["admin", "member", "read"]'}),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger),
    sa.Column("revoked_ms", sa.BigInteger),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("account_id", sa.Text, index=True),
    sa.Column("actor", sa.Text, nullable=False),  # user:… key:… operator system rule:…
    sa.Column("request_id", sa.Text, nullable=False, server_default=""),
    sa.Column("action", sa.Text, nullable=False),  # job.cancel
    sa.Column("target", sa.Text, nullable=False, server_default=""),
    sa.Column("before", sa.JSON),
    sa.Column("after", sa.JSON),
)
