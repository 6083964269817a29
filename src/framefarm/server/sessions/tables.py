"""Sessions, their leases, the attempts they make, and the frames and files that attempts committed."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.session_lease import SessionState
from framefarm.core.task_outcomes import Outcome
from framefarm.server.database import EnumText, metadata

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("instance_type_id", sa.Text, nullable=False),
    sa.Column("preemptible", sa.Boolean, nullable=False),
    sa.Column("price_micros", sa.BigInteger, nullable=False),  # per hour
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("zone", sa.Text, nullable=False, server_default=""),
    sa.Column("cores", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False, server_default="0"),
    sa.Column("state", EnumText(SessionState), nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("end_reason", sa.Text),
    sa.Column("end_message", sa.Text),
    sa.Column("token_hash", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("hello_ms", sa.BigInteger),
    sa.Column("idle_since_ms", sa.BigInteger),
    sa.Column("ended_ms", sa.BigInteger),
    sa.Column("version", sa.Integer, nullable=False),  # of its desired state
    sa.Column("drain", sa.Boolean, nullable=False),
    sa.Column("cancel", sa.Boolean, nullable=False),
    sa.Column("preempt_ms", sa.BigInteger),  # its slot is taken: deadline, after which it is killed
    sa.Column("taken", sa.Boolean, nullable=False, server_default=sa.false()),  # its node is taken away, too
    sa.Column("last_seq", sa.Integer, nullable=False),
    sa.Column("blender", sa.Text),
    sa.Column("spent_micros", sa.BigInteger, nullable=False, server_default="0"),  # its ended attempts
    sa.Column("cost_cap_micros", sa.BigInteger),  # never billed above: a budget stops it there
    sa.Index("ix_sessions_job_id", "job_id"),
    sa.Index("ix_sessions_ended_ms", "ended_ms"),
    sa.Index(  # for `~sessions.c.ended`; SQLite does not see that `ended IS 0` is the same
        "ix_sessions_live",
        "job_id",
        "id",
        sqlite_where=sa.text("ended = 0"),
        postgresql_where=sa.text("NOT ended"),
    ),
)

FAILED = sa.text("outcome IN ('failed', 'lost', 'timed_out')")
"""Condition of the index of failed attempts: a query must use the same text, or the index is not used."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)

progress = sa.Table(  # the latest value only, written at most once a second
    "progress",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("attempt_id", sa.Text, nullable=False),
    sa.Column("frame", sa.Integer, nullable=False),
    sa.Column("fraction", sa.Float, nullable=False),  # 0 to 1
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_progress_job_id", "job_id"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("task_number", sa.Integer, nullable=False),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("zone", sa.Text, nullable=False, server_default=""),
    sa.Column("instance_type_id", sa.Text, nullable=False),
    sa.Column("preemptible", sa.Boolean, nullable=False),
    sa.Column("price_micros", sa.BigInteger, nullable=False),  # per hour
    sa.Column("frames", sa.Text, nullable=False),  # ordered: run-length text
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("assigned_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("started_mono_ms", sa.BigInteger),  # the runner's clock
    sa.Column("saved_mono_ms", sa.BigInteger),  # the last committed frame, the runner's clock
    sa.Column("ended_ms", sa.BigInteger),
    sa.Column("outcome", EnumText(Outcome)),  # null while it runs
    sa.Column("cause", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("frames_done", sa.Integer, nullable=False),
    sa.Column("billed_ms", sa.BigInteger, nullable=False),
    sa.Column("cost_micros", sa.BigInteger, nullable=False),
    sa.Column("peak_memory_bytes", sa.BigInteger),
    sa.Column("charge_id", sa.Text),  # the ledger transaction that posted it
    sa.Index("ix_attempts_job_id_task_number", "job_id", "task_number"),
    sa.Index("ix_attempts_account_id_ended_ms", "account_id", "ended_ms"),
    sa.Index("ix_attempts_failed", "ended_ms", sqlite_where=FAILED, postgresql_where=FAILED),
    sa.Index(
        "ix_attempts_open",
        "session_id",
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    ),
    sa.Index(
        "ix_attempts_unposted",
        "account_id",
        "job_id",
        sqlite_where=sa.text("charge_id IS NULL"),
        postgresql_where=sa.text("charge_id IS NULL"),
    ),
)

frames = sa.Table(
    "frames",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("frame", sa.Integer, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("task_number", sa.Integer, nullable=False),
    sa.Column("attempt_id", sa.Text, nullable=False),
    sa.Column("committed_ms", sa.BigInteger, nullable=False),
    sa.Column("render_ms", sa.Integer, nullable=False),
    sa.Column("peak_memory_bytes", sa.BigInteger),
    sa.Column("warnings", sa.JSON),
    sa.Column("look", sa.Text),  # frame colour as text (core/frame_colour.py); null: unknown
    sa.Column("thumbnail_bytes", sa.Integer),  # null: there is none (yet)
)

files = sa.Table(
    "files",
    metadata,
    sa.Column(  # also the order of commits
        "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("frame", sa.Integer, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("path", sa.Text, nullable=False),  # below the job's output path
    sa.Column("kind", sa.Text, nullable=False),  # frame | extra
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("md5", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("staged", sa.Text, nullable=False),  # key in the store's staging
    sa.Column("published_ms", sa.BigInteger),
    sa.Column("replaced_by", sa.Text),  # a job that wrote the same path later
    sa.Index("ix_files_job_id_frame", "job_id", "frame"),
    sa.Index("ix_files_job_id_path", "job_id", "path"),
    sa.Index(
        "ix_files_unpublished",
        "id",
        sqlite_where=sa.text("published_ms IS NULL"),
        postgresql_where=sa.text("published_ms IS NULL"),
    ),
)
