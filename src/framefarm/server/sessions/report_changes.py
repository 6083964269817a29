"""Rows that one report adds, changes and deletes: gathered, then written with one statement per kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache

import sqlalchemy as sa

from framefarm.server.database import Tx
from framefarm.server.jobs import task_rows
from framefarm.server.jobs.task_rows import Columns, by_columns
from framefarm.server.jobs.warnings import JobWarning
from framefarm.server.sessions.tables import attempts, files, frames
from framefarm.server.tenancy import farmwide


@dataclass(slots=True)
class NewFrame:
    """A row to insert into `frames`."""

    job_id: str
    frame: int
    part: int
    revision: int
    task_number: int
    attempt_id: str
    committed_ms: int
    render_ms: int
    peak_memory_bytes: int | None
    warnings: list[JobWarning] | None
    look: str | None
    """Its frame colour, as text."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A row to insert into `files`; the database numbers it."""

    account_id: str
    job_id: str
    frame: int
    part: int
    revision: int
    path: str
    kind: str
    size: int
    md5: str
    sha256: str
    staged: str


@dataclass
class ReportChanges:
    """Everything that one report changes in `frames`, `files`, `tasks` and `attempts`."""

    frames: list[NewFrame] = field(default_factory=list)
    files: list[NewFile] = field(default_factory=list)
    tasks: dict[int, Columns] = field(default_factory=dict)
    """By task number."""
    given_back: set[int] = field(default_factory=set)
    """Numbers of tasks whose attempt is deleted: it does not count as one."""
    attempts: dict[str, Columns] = field(default_factory=dict)
    """By attempt id."""
    deleted_attempts: list[str] = field(default_factory=list)

    def write(self, tx: Tx, job_id: str) -> None:
        """Write all of it."""
        conn = tx.conn
        if self.frames:
            conn.execute(sa.insert(frames), [asdict(row) for row in self.frames])
            conn.execute(sa.insert(files), [asdict(row) for row in self.files])
        for names, rows in by_columns(self.attempts):
            conn.execute(_update_attempts(names), rows)
        if self.deleted_attempts:
            conn.execute(farmwide(sa.delete(attempts)).where(attempts.c.id.in_(self.deleted_attempts)))
        task_rows.change_each(tx, job_id, self.tasks, uncounted=self.given_back)


@lru_cache(maxsize=64)
def _update_attempts(names: tuple[str, ...]) -> sa.Update:
    statement = farmwide(sa.update(attempts)).where(attempts.c.id == sa.bindparam("key"))
    return statement.values({n: sa.bindparam(n) for n in names})
