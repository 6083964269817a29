"""Which content, deleted jobs and logs are due for removal."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from framefarm.core.retention import (
    ABANDONED_MS,
    DAY_MS,
    DELETED_MS,
    HOUR_MS,
    IDEMPOTENCY_MS,
    UNUSED_MS,
    Content,
    DeletedJob,
    Log,
    RetentionPolicy,
    content_fate,
    log_is_due,
    may_be_emptied,
)

KEEPING = RetentionPolicy(
    unclaimed_ms=7 * DAY_MS,
    condemned_ms=DAY_MS,
    logs_ms=30 * DAY_MS,
    tokens_ms=30 * DAY_MS,
    events_ms=7 * DAY_MS,
    jobs_ms=None,
)
NOW = 100 * DAY_MS
OLD = Content(NOW - 7 * DAY_MS - 1, None, referred=False, awaited=False)
times = st.integers(0, NOW)


def test_fixed_times_are_an_hour_or_a_day() -> None:
    assert (HOUR_MS, DAY_MS) == (3_600_000, 86_400_000)
    assert (DELETED_MS, UNUSED_MS) == (HOUR_MS, HOUR_MS)
    assert (IDEMPOTENCY_MS, ABANDONED_MS) == (DAY_MS, DAY_MS)


def test_content_is_condemned_after_seven_days_without_a_claim_and_removed_a_day_later() -> None:
    assert content_fate(OLD, KEEPING, NOW) == "condemn"
    assert content_fate(replace(OLD, last_claimed_ms=NOW - 7 * DAY_MS), KEEPING, NOW) == "keep"
    assert content_fate(replace(OLD, condemned_ms=NOW - DAY_MS), KEEPING, NOW) == "keep"
    assert content_fate(replace(OLD, condemned_ms=NOW - DAY_MS - 1), KEEPING, NOW) == "remove"


@given(st.integers(0, 7 * DAY_MS), st.integers(0, DAY_MS), st.integers(0, 30 * DAY_MS))
def test_nothing_is_due_before_its_time(claimed_ago: int, condemned_ago: int, ended_ago: int) -> None:
    claimed = replace(OLD, last_claimed_ms=NOW - claimed_ago)
    assert content_fate(claimed, KEEPING, NOW) == "keep"
    assert content_fate(replace(OLD, condemned_ms=NOW - condemned_ago), KEEPING, NOW) == "keep"
    assert not log_is_due(Log(known=False, age_ms=ended_ago), KEEPING, NOW)
    log = Log(known=True, age_ms=NOW, session_over=True, ended_ms=NOW - ended_ago)
    assert not log_is_due(log, KEEPING, NOW)


@given(st.integers(0, HOUR_MS))
def test_a_deleted_job_keeps_its_rows_for_an_hour(deleted_ago: int) -> None:
    job = DeletedJob(NOW - deleted_ago, live_sessions=0, unpublished=0, pending_mails=0)
    assert not may_be_emptied(job, NOW)


@given(times, st.booleans())
def test_content_that_a_job_refers_to_or_waits_for_is_kept_however_old(claimed: int, referred: bool) -> None:
    content = Content(claimed, None, referred=referred, awaited=not referred)
    assert content_fate(content, KEEPING, NOW) == "keep"


@given(st.booleans(), st.booleans())
def test_condemned_content_is_removed_on_time_whatever_refers_to_it(referred: bool, awaited: bool) -> None:
    content = replace(OLD, referred=referred, awaited=awaited)
    assert content_fate(replace(content, condemned_ms=NOW - DAY_MS - 1), KEEPING, NOW) == "remove"
    assert content_fate(replace(content, condemned_ms=NOW - DAY_MS), KEEPING, NOW) == "keep"


@given(times, st.none() | times, st.booleans(), st.booleans())
def test_content_is_never_removed_that_was_not_condemned_before(
    claimed: int, condemned: int | None, referred: bool, awaited: bool
) -> None:
    fate = content_fate(Content(claimed, condemned, referred, awaited), KEEPING, NOW)
    assert fate != "remove" or condemned is not None
    assert fate != "condemn" or condemned is None


def test_a_deleted_job_waits_for_its_sessions_its_files_its_mails_and_its_addresses() -> None:
    over = DeletedJob(NOW - DELETED_MS - 1, live_sessions=0, unpublished=0, pending_mails=0)
    assert may_be_emptied(over, NOW)
    for busy in ("live_sessions", "unpublished", "pending_mails"):
        assert not may_be_emptied(replace(over, **{busy: 1}), NOW)  # type: ignore[arg-type]
    assert not may_be_emptied(replace(over, deleted_ms=NOW - DELETED_MS), NOW)


def test_a_log_is_due_with_its_job_or_after_its_time_and_never_while_its_session_lives() -> None:
    ended = Log(known=True, age_ms=0, session_over=True, ended_ms=NOW - 30 * DAY_MS - 1)
    assert log_is_due(ended, KEEPING, NOW)
    assert not log_is_due(replace(ended, session_over=False), KEEPING, NOW)
    assert not log_is_due(replace(ended, ended_ms=NOW - 30 * DAY_MS), KEEPING, NOW)
    assert log_is_due(replace(ended, ended_ms=NOW, job_emptied=True), KEEPING, NOW)
    assert not log_is_due(replace(ended, ended_ms=None), KEEPING, NOW)
    assert not log_is_due(replace(ended, age_ms=NOW, ended_ms=NOW), KEEPING, NOW)
    assert not log_is_due(Log(known=True, age_ms=0, job_emptied=True), KEEPING, NOW)
    assert not log_is_due(Log(known=True, age_ms=0, session_over=True), KEEPING, NOW)


def test_a_log_of_no_attempt_is_due_by_the_age_of_its_last_line() -> None:
    assert log_is_due(Log(known=False, age_ms=30 * DAY_MS + 1), KEEPING, NOW)
    assert not log_is_due(Log(known=False, age_ms=30 * DAY_MS), KEEPING, NOW)
    assert log_is_due(Log(known=False, age_ms=30 * DAY_MS + HOUR_MS), KEEPING, NOW)
