"""Rows of `tasks`: every change of them. All functions need the job's lock, and none counts in its state."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import sqlalchemy as sa

from framefarm.core.job import TaskStatus
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import tasks

K = TypeVar("K", bound=Hashable)
Columns = dict[str, object]
"""Column → new value, of one row."""
RESET: Columns = {
    "status": TaskStatus.PENDING, "preemptions": 0, "failures": 0, "losses": 0, "not_before_ms": None,
    "cause": None, "reason": None,
}  # fmt: skip
"""A task with all its retries."""


def insert_running(tx: Tx, job_id: str, attempts: Sequence[tuple[int, str]]) -> None:
    """Insert tasks that are assigned for the first time: (number, id of the attempt) of each."""
    rows = [
        {
            "job_id": job_id,
            "number": number,
            "status": TaskStatus.RUNNING,
            "attempt_id": attempt_id,
            "attempt_count": 1,
            "frames_done": 0,
        }
        for number, attempt_id in attempts
    ]
    tx.conn.execute(sa.insert(tasks), rows)


def change(tx: Tx, job_id: str, number: int, columns: Mapping[str, object]) -> None:
    """Change columns of one task."""
    key = (tasks.c.job_id == job_id) & (tasks.c.number == number)
    tx.conn.execute(sa.update(tasks).where(key).values(dict(columns)))


def change_each(tx: Tx, job_id: str, changes: Mapping[int, Columns], uncounted: Collection[int] = ()) -> None:
    """Change each task by number, in one statement for all with the same columns.

    `uncounted`: those of which one attempt does not count any more.
    """
    for number in sorted(uncounted):
        change(tx, job_id, number, {**changes[number], "attempt_count": tasks.c.attempt_count - 1})
    others = {n: columns for n, columns in changes.items() if n not in uncounted}
    for names, rows in by_columns(others):
        tx.conn.execute(_update(names), [row | {"job": job_id} for row in rows])


def set_status(tx: Tx, job_id: str, numbers: Sequence[int], status: TaskStatus) -> None:
    """Set the status of the tasks with these numbers."""
    if numbers:
        key = (tasks.c.job_id == job_id) & tasks.c.number.in_(numbers)
        tx.conn.execute(sa.update(tasks).where(key).values(status=status))


def cancel_pending(tx: Tx, job_id: str) -> int:
    """Set the job's pending tasks to cancelled; returns their number."""
    pending = (tasks.c.job_id == job_id) & (tasks.c.status == TaskStatus.PENDING)
    return tx.conn.execute(sa.update(tasks).where(pending).values(status=TaskStatus.CANCELLED)).rowcount


def reset_where(tx: Tx, which: sa.ColumnElement[bool]) -> None:
    """Set these tasks back to pending, with all their retries."""
    tx.conn.execute(sa.update(tasks).where(which).values(RESET))


def by_columns(changes: Mapping[K, Columns]) -> list[tuple[tuple[str, ...], list[Columns]]]:
    """Changes with the same columns together, for one executemany each; `key` is added to each row."""
    groups: dict[tuple[str, ...], list[Columns]] = {}
    for key, columns in changes.items():
        if columns:
            groups.setdefault(tuple(columns), []).append({"key": key, **columns})
    return list(groups.items())


@lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> sa.Update:
    key = (tasks.c.job_id == sa.bindparam("job")) & (tasks.c.number == sa.bindparam("key"))
    return sa.update(tasks).where(key).values({n: sa.bindparam(n) for n in names})
