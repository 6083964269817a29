"""Rules for removing old content, logs and deleted jobs. Pure; all times in milliseconds.

Jobs refer to content through their manifests; a registered path alone does not refer to content. Never due:
anything needed by a job that still has rows, by a live session, or by an upload in progress.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
IDEMPOTENCY_MS = DAY_MS
"""Time for which the answer to an Idempotency-Key is kept (docs/api.md)."""
DELETED_MS = HOUR_MS
"""Time for which a deleted job's rows are kept: signed addresses of its files are valid for an hour."""
UNUSED_MS = HOUR_MS
"""Time for which a manifest without a job is kept."""
ABANDONED_MS = DAY_MS
"""Age from which an object without a row is abandoned: every request writes the row much sooner."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long unneeded data is kept, in milliseconds."""

    unclaimed_ms: int
    """For content: time since an account last claimed it."""
    condemned_ms: int
    """For the bytes of condemned content: time since it was condemned."""
    logs_ms: int
    tokens_ms: int
    events_ms: int
    jobs_ms: int | None
    """Finished jobs; None: until a user deletes them."""


@dataclass(frozen=True, slots=True)
class Content:
    """Stored content. `referred`: a job that still has rows uses it. `awaited`: the user who registered it
    has a job that waits for files and may use it next."""

    last_claimed_ms: int
    condemned_ms: int | None
    referred: bool
    awaited: bool


def content_fate(
    content: Content, policy: RetentionPolicy, now_ms: int
) -> Literal["keep", "condemn", "remove"]:
    """Next step for one content. Condemned content is invisible to every account; only a new upload restores
    it."""
    if content.condemned_ms is not None:
        return "remove" if content.condemned_ms < now_ms - policy.condemned_ms else "keep"
    if content.referred or content.awaited:
        return "keep"
    return "condemn" if content.last_claimed_ms < now_ms - policy.unclaimed_ms else "keep"


@dataclass(frozen=True, slots=True)
class DeletedJob:
    """A job that a user deleted, and the work that remains for it."""

    deleted_ms: int
    live_sessions: int
    unpublished: int
    """Committed files not at the output destination yet. They were paid for, and are published first."""
    pending_mails: int


def may_be_emptied(job: DeletedJob, now_ms: int) -> bool:
    """Whether all rows of the job may be removed, except those that its bill needs."""
    busy = job.live_sessions or job.unpublished or job.pending_mails
    return not busy and job.deleted_ms < now_ms - DELETED_MS


@dataclass(frozen=True, slots=True)
class Log:
    """Log file of an attempt. `known`: the attempt has a row. `age_ms`: time since the last write."""

    known: bool
    age_ms: int
    session_over: bool = False
    job_emptied: bool = False
    ended_ms: int | None = None


def log_is_due(log: Log, policy: RetentionPolicy, now_ms: int) -> bool:
    """Whether a log is to be removed: with its job, or `logs_ms` after its attempt's end."""
    if not log.known:
        return log.age_ms > policy.logs_ms
    if not log.session_over:
        return False
    return log.job_emptied or (log.ended_ms is not None and log.ended_ms < now_ms - policy.logs_ms)
