"""Jobs, their states, dependencies, tasks and events."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.job import JobStatus, TaskStatus
from framefarm.server.database import EnumText, metadata

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.id"), nullable=False),
    sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id"), nullable=False, index=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("deleted_ms", sa.BigInteger),
    sa.Column("emptied_ms", sa.BigInteger),  # deleted, and all removed but what its bill needs
    sa.Column("request", sa.JSON, nullable=False),  # as accepted, defaults filled in, without paths
    sa.Column("instance_type_id", sa.Text, sa.ForeignKey("instance_types.id"), nullable=False),
    sa.Column("preemptible", sa.Boolean, nullable=False),
    sa.Column("package_id", sa.Text, nullable=False),
    sa.Column("manifest_sha256", sa.Text, nullable=False),
    sa.Column("scene_path", sa.Text),  # null until known
    sa.Column("output_url", sa.Text, nullable=False),  # gs://bucket/prefix, file:///dir
    sa.Column("chunk_size", sa.Integer, nullable=False),
    sa.Column("frames", sa.Text),  # run-length text; null until known
    sa.Column("scouts", sa.Text, nullable=False, server_default=""),
    sa.Column("scene", sa.JSON),  # facts from its file
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Index("ix_jobs_account_id_id", "account_id", "id"),
    sa.Index("ix_jobs_output_url", "output_url"),
    sa.Index("ix_jobs_account_id_manifest_sha256", "account_id", "manifest_sha256"),
    sa.Index(
        "ix_jobs_deleted",
        "deleted_ms",
        sqlite_where=sa.text("deleted_ms IS NOT NULL AND emptied_ms IS NULL"),
        postgresql_where=sa.text("deleted_ms IS NOT NULL AND emptied_ms IS NULL"),
    ),
)

job_state = sa.Table(
    "job_state",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("status", EnumText(JobStatus), nullable=False),  # computed by core/job, stored for lists
    sa.Column("status_since_ms", sa.BigInteger, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("next", sa.Integer, nullable=False),  # tasks from here on have no row
    sa.Column("task_count", sa.Integer),  # null until the frames are known
    sa.Column("scout_count", sa.Integer, nullable=False),
    sa.Column("frame_count", sa.Integer),
    sa.Column("holds", sa.Text, nullable=False),  # sorted, comma separated: dependency,user
    sa.Column("gate_open", sa.Boolean, nullable=False),
    sa.Column("missing", sa.Integer, nullable=False),  # inputs not uploaded yet
    sa.Column("scene_read", sa.Boolean, nullable=False),
    sa.Column("depends_left", sa.Integer, nullable=False),  # jobs it still waits for
    sa.Column("cancel_ms", sa.BigInteger),
    sa.Column("failed_cause", sa.Text),  # the whole job failed: code
    sa.Column("failed_message", sa.Text),  # and sentence
    sa.Column("rows_pending", sa.Integer, nullable=False),
    sa.Column("rows_running", sa.Integer, nullable=False),
    sa.Column("rows_success", sa.Integer, nullable=False),
    sa.Column("rows_failed", sa.Integer, nullable=False),
    sa.Column("rows_preempted", sa.Integer, nullable=False),
    sa.Column("rows_cancelled", sa.Integer, nullable=False),
    sa.Column("scouts_ended", sa.Integer, nullable=False),
    sa.Column("frames_done", sa.Integer, nullable=False),
    sa.Column("cost_micros", sa.BigInteger, nullable=False, server_default=sa.text("0")),  # ended attempts
    sa.Column("unpublished", sa.Integer, nullable=False),  # files committed, not yet at output_path
    sa.Column("event_number", sa.Integer, nullable=False),
    sa.Column("frame_ms", sa.Integer),  # a moving mean of render time per frame
    # Running sums for the forecast: of frames, of ended attempts, of sessions that opened the scene.
    sa.Column("timed_frames", sa.Integer, nullable=False, server_default="0"),
    sa.Column("timed_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("timed_squares", sa.Double, nullable=False, server_default="0"),  # milliseconds squared
    sa.Column("billed_frames", sa.Integer, nullable=False, server_default="0"),
    sa.Column("billed_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("loads", sa.Integer, nullable=False, server_default="0"),
    sa.Column("load_ms", sa.BigInteger, nullable=False, server_default="0"),  # hello to scene opened
    sa.Column("arrived_ms", sa.BigInteger),  # when a missing file last arrived
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("ended_ms", sa.BigInteger),
    sa.Index("ix_job_state_account_id_status", "account_id", "status"),
    sa.Index("ix_job_state_status", "status"),
)

job_dependencies = sa.Table(
    "job_dependencies",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("depends_on", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Index("ix_job_dependencies_depends_on", "depends_on"),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False, server_default="render"),
    sa.Column("status", EnumText(TaskStatus), nullable=False),
    sa.Column("attempt_id", sa.Text),  # the owner: only it commits frames
    sa.Column("attempt_count", sa.Integer, nullable=False),
    sa.Column("preemptions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
    sa.Column("frames_done", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("redo", sa.Text),  # frames to render again at `revision`
    sa.Column("cause", sa.Text),
    sa.Column("reason", sa.Text),  # one sentence
    sa.Column("not_before_ms", sa.BigInteger),
    sa.Index(
        "ix_tasks_pending",
        "job_id",
        "number",
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    ),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.UniqueConstraint("job_id", "number"),
    sa.Index("ix_events_account_id_id", "account_id", "id"),
)
