"""Warnings of a job and its frames, as their rows store them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NotRequired, TypedDict

import sqlalchemy as sa

from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.tenancy import farmwide

MOST = 200
"""Warnings that a job keeps."""


class JobWarning(TypedDict):
    """A warning in the JSON of a job's or frame's row."""

    code: str
    message: str
    subject: str
    frame: NotRequired[int]
    """The frame whose picture it is about."""


def add(
    tx: Tx, job_id: str, reported: list[msg.NodeWarning], frame: int | None = None
) -> list[msg.NodeWarning]:
    """Add warnings to the job, each (code, subject) once, at most MOST. Returns those that were new; a code
    that the job does not have yet always finds room. `frame`: whose picture they are about."""
    key = jobs.c.id == job_id
    # Locked: the publisher writes warnings, too, of jobs whose state it does not lock.
    query = farmwide(sa.select(jobs.c.warnings)).where(key).with_for_update(key_share=True)
    stored: list[JobWarning] = tx.conn.execute(query).scalar_one()
    known = {(w["code"], w.get("subject", "")) for w in stored}
    codes = {w["code"] for w in stored}
    new: list[msg.NodeWarning] = []
    room = MOST - len(stored)
    for warning in reported:
        if (warning.code, warning.subject) not in known and (room > len(new) or warning.code not in codes):
            known.add((warning.code, warning.subject))
            codes.add(warning.code)
            new.append(warning)
    if new:
        values = stored + [to_json(w, frame) for w in new]
        tx.conn.execute(farmwide(sa.update(jobs)).where(key).values(warnings=values))
    return new


def to_json(warning: msg.NodeWarning, frame: int | None = None) -> JobWarning:
    """The warning as a job's or frame's row stores it. `frame`: whose picture it is about."""
    stored = JobWarning(code=warning.code, message=warning.message, subject=warning.subject)
    if frame is not None:
        stored["frame"] = frame
    return stored


def replace_code(tx: Tx, job_ids: Collection[str], code: str, current: Mapping[str, JobWarning]) -> None:
    """Give each of these jobs its warning in `current` (job → warning) in place of those with `code`, if any.

    Locks the rows of `jobs`, in order of ids.
    """
    query = farmwide(sa.select(jobs.c.id, jobs.c.warnings)).where(jobs.c.id.in_(job_ids))
    for job in tx.conn.execute(query.order_by(jobs.c.id).with_for_update()).all():
        warnings = [w for w in job.warnings if w["code"] != code]
        if job.id in current:
            warnings.append(current[job.id])
        if warnings != job.warnings:
            change = farmwide(sa.update(jobs)).where(jobs.c.id == job.id)
            tx.conn.execute(change.values(warnings=warnings))
