"""What of the farm's old things is due to go at `now`: pure rules. All times in milliseconds.

Jobs refer to content, through their manifests; paths that content is registered under do not. Nothing that a
job needs which is not emptied yet, that a live session may touch, or that an upload is about to make its own,
is ever due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
IDEMPOTENCY_MS = DAY_MS
"""What was answered to an Idempotency-Key is promised for so long (docs/api.md)."""
DELETED_MS = HOUR_MS
"""A deleted job's rows stay that long: addresses of its files that were given out are good for an hour."""
UNUSED_MS = HOUR_MS
"""A manifest that no job has stays that long."""
ABANDONED_MS = DAY_MS
"""An object without a row is nobody's after that: no request takes so long between object and row."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long things are kept that nothing needs."""

    unclaimed_ms: int
    """Content, since somebody last said that they want it."""
    condemned_ms: int
    """The bytes of content that does not exist any more."""
    logs_ms: int
    tokens_ms: int
    events_ms: int
    jobs_ms: int | None
    """Finished jobs; None: until somebody deletes them."""


@dataclass(frozen=True, slots=True)
class Content:
    """`referred`: a job that is not emptied has it. `awaited`: its user has a job that waits for files, and
    registered it; that job may be about to take it."""

    last_claimed_ms: int
    condemned_ms: int | None
    referred: bool
    awaited: bool


def content_fate(
    content: Content, keeping: RetentionPolicy, now_ms: int
) -> Literal["keep", "condemn", "remove"]:
    """Condemned content does not exist for anybody; nothing brings it back but another upload."""
    if content.condemned_ms is not None:
        return "remove" if content.condemned_ms < now_ms - keeping.condemned_ms else "keep"
    if content.referred or content.awaited:
        return "keep"
    return "condemn" if content.last_claimed_ms < now_ms - keeping.unclaimed_ms else "keep"


@dataclass(frozen=True, slots=True)
class DeletedJob:
    deleted_ms: int
    live_sessions: int
    unpublished: int
    """Committed files that are not at their place yet: they were paid for, and go there first."""
    pending_mails: int


def may_be_emptied(job: DeletedJob, now_ms: int) -> bool:
    """Whether all of it may go but what its bill needs."""
    busy = job.live_sessions or job.unpublished or job.pending_mails
    return not busy and job.deleted_ms < now_ms - DELETED_MS


@dataclass(frozen=True, slots=True)
class Log:
    """What an attempt printed. `known`: the attempt has a row. `age_ms`: since it was written to."""

    known: bool
    age_ms: int
    session_over: bool = False
    job_emptied: bool = False
    ended_ms: int | None = None


def log_is_due(log: Log, keeping: RetentionPolicy, now_ms: int) -> bool:
    """A log goes with its job, or some time after its attempt's end."""
    if not log.known:
        return log.age_ms > keeping.logs_ms
    if not log.session_over:
        return False
    return log.job_emptied or (log.ended_ms is not None and log.ended_ms < now_ms - keeping.logs_ms)
