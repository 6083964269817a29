"""Warnings that machines tell of, as the job keeps them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.tenancy import farmwide

MOST = 200
"""Warnings that a job keeps."""


def add(tx: Tx, job_id: str, notes: list[msg.NodeWarning], frame: int | None = None) -> list[msg.NodeWarning]:
    """Add warnings to the job, each (code, subject) once, at most MOST. Returns those that were new; a code
    that the job does not have yet always finds room. `frame`: whose picture they are about."""
    key = jobs.c.id == job_id
    # Locked: the publisher writes warnings, too, of jobs whose state it does not lock.
    query = farmwide(sa.select(jobs.c.warnings)).where(key).with_for_update(key_share=True)
    have: list[dict[str, Any]] = tx.conn.execute(query).scalar_one()
    known = {(w["code"], w.get("subject", "")) for w in have}
    codes = {w["code"] for w in have}
    fresh: list[msg.NodeWarning] = []
    room = MOST - len(have)
    for note in notes:
        if (note.code, note.subject) not in known and (room > len(fresh) or note.code not in codes):
            known.add((note.code, note.subject))
            codes.add(note.code)
            fresh.append(note)
    if fresh:
        values = have + [row(n) | ({} if frame is None else {"frame": frame}) for n in fresh]
        tx.conn.execute(farmwide(sa.update(jobs)).where(key).values(warnings=values))
    return fresh


def row(note: msg.NodeWarning) -> dict[str, Any]:
    """As it is kept with a job or frame."""
    return {"code": note.code, "message": note.message, "subject": note.subject}


def replace_code(tx: Tx, job_ids: Collection[str], code: str, current: Mapping[str, dict[str, str]]) -> None:
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
