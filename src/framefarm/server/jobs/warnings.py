"""Warnings of a job and its frames, as their rows store them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

import sqlalchemy as sa

from framefarm.core.failure_codes import CAUSES
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import jobs
from framefarm.server.json_types import Answer
from framefarm.server.tenancy import farmwide
from framefarm.server.timestamps import iso

MISSING = "missing_file"
MOST = 200
"""Warnings that a job keeps."""


class MissingFile(TypedDict):
    """More about a missing file, whose path is the subject of its warning."""

    wanted_by: str
    """The data-block, node or strip that wants it; empty if it is not known."""
    found_by: Literal["submit", "opened", "rendered"]
    """`submit`: in the scene's file; `opened`: by Blender as it opened it; `rendered`: by its lookup."""
    since_ms: NotRequired[int]
    """When the farm learned of it; without it, when the job was submitted."""


class JobWarning(TypedDict):
    """A warning in the JSON of a job's or frame's row."""

    code: str
    message: str
    subject: str
    frame: NotRequired[int]
    """The frame whose picture it is about."""
    missing: NotRequired[MissingFile]


def add(
    tx: Tx, job_id: str, reported: list[msg.NodeWarning], frame: int | None = None
) -> list[msg.NodeWarning]:
    """Add warnings to the job, each (code, subject) once, at most MOST. Returns those that were new; a code
    that the job does not have yet always finds room. `frame`: whose picture they are about.

    A missing file that the job has keeps its time, and gets the name of its user if it had none."""
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
    named = _name_users(stored, reported)
    if new or named:
        values = stored + [to_json(w, frame, tx.now_ms) for w in new]
        tx.conn.execute(farmwide(sa.update(jobs)).where(key).values(warnings=values))
    return new


def _name_users(stored: list[JobWarning], reported: list[msg.NodeWarning]) -> bool:
    """Fill in the users of missing files in `stored`, which are now known. Returns whether any was."""
    users = {w.subject: w.wanted_by for w in reported if w.code == MISSING and w.subject and w.wanted_by}
    named = False
    for warning in stored:
        if warning["code"] == MISSING and warning.get("subject") in users:
            missing = warning.setdefault("missing", MissingFile(wanted_by="", found_by="submit"))
            if not missing["wanted_by"]:
                missing["wanted_by"] = users[warning["subject"]]
                named = True
    return named


def to_json(warning: msg.NodeWarning, frame: int | None = None, since_ms: int | None = None) -> JobWarning:
    """The warning as a job's or frame's row stores it. `frame`: whose picture it is about."""
    stored = JobWarning(code=warning.code, message=warning.message, subject=warning.subject)
    if frame is not None:
        stored["frame"] = frame
    if warning.code == MISSING and warning.found_by:
        stored["missing"] = MissingFile(wanted_by=warning.wanted_by, found_by=warning.found_by)
        if since_ms is not None:
            stored["missing"]["since_ms"] = since_ms
    return stored


def shown(stored: Sequence[JobWarning]) -> list[Answer]:
    """Warnings as the API shows them."""
    return [{name: value for name, value in w.items() if name != "missing"} for w in stored]


def missing_files(stored: Sequence[JobWarning], created_ms: int) -> list[Answer]:
    """Rows of the job's list of missing files, one for each path, oldest first. `created_ms`: of the job."""
    rows = []
    for warning in stored:
        if warning["code"] == MISSING and warning.get("subject"):
            missing = warning.get("missing", MissingFile(wanted_by="", found_by="submit"))
            since_ms = missing.get("since_ms", created_ms)
            row = {
                "path": warning["subject"],
                "wanted_by": missing["wanted_by"],
                "found_by": missing["found_by"],
                "since": iso(since_ms),
                "remedy": CAUSES[MISSING].remedy,
            }
            rows.append((since_ms, row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


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
