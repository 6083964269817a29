"""Warnings: what an artist should know of a frame or a job, kept beside it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.protocol import node as say
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.tenancy import farmwide

MOST = 200
"""Of one job."""


def stored(note: say.Note) -> dict[str, Any]:
    return {"code": note.code, "message": note.message, "subject": note.subject}


def add_warnings(tx: Tx, job_id: str, notes: list[dict[str, Any]]) -> None:
    """Add warnings (as `stored` gives them; with a `frame` if they have a picture) to the job, each (code,
    subject) once, at most 200."""
    key = jobs.c.id == job_id
    have: list[dict[str, Any]] = tx.conn.execute(farmwide(sa.select(jobs.c.warnings)).where(key)).scalar_one()
    known = {(w["code"], w.get("subject", "")) for w in have}
    fresh = [n for n in notes if (n["code"], n["subject"]) not in known][: max(0, MOST - len(have))]
    if fresh:
        tx.conn.execute(farmwide(sa.update(jobs)).where(key).values(warnings=have + fresh))
