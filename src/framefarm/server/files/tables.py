"""Tables of uploaded content, its registered paths, and the manifests of jobs with their missing paths."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

contents = sa.Table(
    "contents",
    metadata,
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),  # random: never used twice
    sa.Column("md5", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("last_claimed_ms", sa.BigInteger, nullable=False),
    sa.Column("condemned_ms", sa.BigInteger),  # set: invisible, and removed later
    sa.Index("ix_contents_account_id_md5", "account_id", "md5"),
    sa.Index(
        "ix_contents_condemned",
        "condemned_ms",
        sqlite_where=sa.text("condemned_ms IS NOT NULL"),
        postgresql_where=sa.text("condemned_ms IS NOT NULL"),
    ),
)

registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),  # normalised
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("md5", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("registered_ms", sa.BigInteger, nullable=False),
    sa.Column("used_ms", sa.BigInteger),  # when a job last used it
    sa.Index("ix_registrations_account_id_sha256", "account_id", "sha256"),
)

manifests = sa.Table(
    "manifests",
    metadata,
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),  # of all its files together, in bytes
    sa.Column("created_ms", sa.BigInteger, nullable=False),  # when a job last used it
)

manifest_contents = sa.Table(
    "manifest_contents",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("manifest_sha256", sa.Text, primary_key=True),
    sa.Column("content_sha256", sa.Text, primary_key=True),
    sa.Index("ix_manifest_contents_content", "account_id", "content_sha256"),
)

missing_paths = sa.Table(
    "missing_paths",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("md5", sa.Text),  # pinned
    sa.Column("sha256", sa.Text),  # pinned
    sa.Index("ix_missing_paths_user_path", "user_id", "path"),
    sa.Index("ix_missing_paths_user_sha256", "user_id", "sha256"),
    sa.Index("ix_missing_paths_user_md5", "user_id", "md5"),
)
