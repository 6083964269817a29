"""Invariants of a farm after a chaos run, checked in its database, its files and on its machine.

Each function yields one sentence for each violation, and none if the invariant holds.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from farm import LEASE_SECONDS
from recorder import BegunFrame
from workload import KnownJob

from framefarm.core.frames import FrameSet
from framefarm.core.money import cost_micros


class FarmDatabase:
    """The database of a stopped farm, opened read-only, and its data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._db = sqlite3.connect(f"file:{data / 'framefarm.db'}?mode=ro", uri=True)
        self._db.row_factory = sqlite3.Row

    def all(self, query: str, *values: object) -> list[sqlite3.Row]:
        return self._db.execute(query, values).fetchall()

    def one(self, query: str, *values: object) -> sqlite3.Row:
        return self._db.execute(query, values).fetchone()


def frames_once(database: FarmDatabase, jobs: Iterable[KnownJob]) -> Iterator[str]:
    """Every frame is committed exactly once per revision, and its file is at its destination."""
    for (frames,) in database.all("SELECT COUNT(*) FROM frames GROUP BY job_id, frame, part, revision"):
        if frames != 1:
            yield f"a frame is committed {frames} times at one revision"
    for job in jobs:
        if job.status == "success" and not job.deleted:
            first = database.all("SELECT frame FROM frames WHERE job_id = ? AND revision = 0", job.id)
            if sorted(r["frame"] for r in first) != list(job.frames):
                yield f"{job.title}: not every frame is committed: {len(first)} of {len(job.frames)}"
    orphans = database.all(
        "SELECT f.job_id, f.frame FROM frames f LEFT JOIN attempts a ON a.id = f.attempt_id"
        " AND a.job_id = f.job_id AND a.task_number = f.task_number AND a.revision = f.revision"
        " WHERE a.id IS NULL"
    )
    for row in orphans:
        yield f"{row['job_id']}: frame {row['frame']} was committed by no attempt of its task and revision"
    yield from _files(database)
    yield from _counters(database)


def _files(database: FarmDatabase) -> Iterator[str]:
    rows = database.all(
        "SELECT f.*, j.output_url, j.title FROM files f JOIN jobs j ON j.id = f.job_id ORDER BY f.id"
    )
    latest = {(r["output_url"], r["path"]): r for r in rows}
    pictures = Counter((r["job_id"], r["frame"], r["revision"]) for r in rows if r["kind"] == "frame")
    for key in database.all("SELECT job_id, frame, revision FROM frames"):
        if pictures[tuple(key)] != 1:
            yield f"{key['job_id']}: frame {key['frame']} has {pictures[tuple(key)]} pictures"
    for row in rows:
        if row["published_ms"] is None:
            yield f"{row['title']}: {row['path']} was never published"
    for (url, path), row in latest.items():
        file = database.data / "outputs" / url.removeprefix("area:///") / path
        if not file.is_file():
            yield f"{row['title']}: {file} is missing"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != row["sha256"]:
            yield f"{row['title']}: {file} does not have the committed SHA-256"


def _counters(database: FarmDatabase) -> Iterator[str]:
    for row in database.all("SELECT * FROM job_state"):
        job = row["job_id"]
        tasks = Counter(
            {
                r[0]: r[1]
                for r in database.all("SELECT status, COUNT(*) FROM tasks WHERE job_id = ? GROUP BY 1", job)
            }
        )
        for status in ("pending", "running", "success", "failed", "preempted", "cancelled"):
            if row[f"rows_{status}"] != tasks[status]:
                yield f"{job}: counts {row[f'rows_{status}']} tasks {status}, has {tasks[status]}"
        done = database.one("SELECT COUNT(*) FROM frames WHERE job_id = ? AND revision = 0", job)[0]
        if row["frames_done"] != done:
            yield f"{job}: counts {row['frames_done']} frames done, has {done}"
        if row["unpublished"]:
            yield f"{job}: counts {row['unpublished']} files that are not published"
    committed = dict(database.all("SELECT attempt_id, COUNT(*) FROM frames GROUP BY 1"))
    for row in database.all("SELECT id, frames_done FROM attempts"):
        if row["frames_done"] != committed.get(row["id"], 0):
            yield f"{row['id']}: counts {row['frames_done']} frames, committed {committed.get(row['id'], 0)}"


def not_begun_again(database: FarmDatabase, begun: Iterable[BegunFrame]) -> Iterator[str]:
    """No connected node began a committed frame, and no attempt was assigned one."""
    commits: dict[tuple[str, int], list[tuple[int, int, str]]] = defaultdict(list)
    for r in database.all("SELECT job_id, frame, revision, committed_ms, attempt_id FROM frames"):
        commits[r["job_id"], r["frame"]].append((r["revision"], r["committed_ms"], r["attempt_id"]))
    attempts = {r["id"]: r for r in database.all("SELECT * FROM attempts")}
    for attempt in attempts.values():
        for frame in FrameSet.from_text(attempt["frames"]):
            for revision, committed_ms, _ in commits[attempt["job_id"], frame]:
                if revision >= attempt["revision"] and committed_ms < attempt["assigned_ms"]:
                    yield f"{attempt['id']} was assigned frame {frame}, which was committed before"
    job_of = dict(tuple(r) for r in database.all("SELECT id, job_id FROM sessions"))
    for start in begun:
        if start.silent_ms >= LEASE_SECONDS * 1000:
            continue
        for revision, committed_ms, by in commits[job_of[start.session], start.frame]:
            if revision >= start.revision and committed_ms < start.at_ms:
                yield (
                    f"{start.attempt} began frame {start.frame} {start.at_ms - committed_ms} ms after {by}"
                    f" had committed it; its runner's last call was answered {start.silent_ms} ms before"
                )


def money(database: FarmDatabase) -> Iterator[str]:
    """Attempts and ledger agree to the micro-dollar."""
    owed: Counter[str] = Counter()
    for a in database.all("SELECT * FROM attempts"):
        if a["outcome"] is None:
            yield f"{a['id']} has not ended"
        elif a["cost_micros"] != cost_micros(a["billed_ms"], a["price_micros"]):
            yield f"{a['id']} costs {a['cost_micros']} micros for {a['billed_ms']} ms at {a['price_micros']}"
        if a["outcome"] == "lost" and a["billed_ms"]:
            yield f"{a['id']} was lost and is billed"
        if a["ended_ms"] is not None and a["billed_ms"] > a["ended_ms"] - a["assigned_ms"]:
            yield f"{a['id']} is billed for longer than it lasted"
        owed[a["job_id"]] += a["cost_micros"]
    charged: Counter[str] = Counter()
    balance: dict[str, int] = {}
    for t in database.all("SELECT * FROM ledger_transactions ORDER BY account_id, number"):
        if t["job_id"]:
            charged[t["job_id"]] -= t["amount_micros"]
        balance[t["account_id"]] = balance.get(t["account_id"], 0) + t["amount_micros"]
        if t["balance_micros"] != balance[t["account_id"]]:
            yield f"entry {t['id']} has the balance {t['balance_micros']}, not {balance[t['account_id']]}"
    for job in owed | charged:
        if owed[job] != charged[job]:
            yield f"{job}: its attempts cost {owed[job]} micros, the ledger has {charged[job]}"
    for row in database.all("SELECT transaction_id, SUM(amount_micros) AS s FROM ledger_postings GROUP BY 1"):
        if row["s"]:
            yield f"the postings of {row['transaction_id']} sum to {row['s']}"
    lived = (
        "SELECT s.id, s.hello_ms, s.ended_ms, SUM(a.billed_ms) AS b FROM attempts a"
        " JOIN sessions s ON s.id = a.session_id GROUP BY 1, 2, 3"
    )
    for row in database.all(lived):
        if row["hello_ms"] is not None and row["b"] > row["ended_ms"] - row["hello_ms"]:
            yield f"{row['id']}: its attempts are billed for longer than it lived"


def acknowledged(
    database: FarmDatabase, jobs: list[KnownJob], uploads: dict[str, str], projects: list[str]
) -> Iterator[str]:
    """Every acknowledged change is stored."""
    rows = {
        r["job_id"]: r
        for r in database.all(
            "SELECT s.*, j.title, j.deleted_ms FROM job_state s JOIN jobs j ON j.id = s.job_id"
        )
    }
    titles = Counter(r["title"] for r in rows.values())
    for title, number in titles.items():
        if number != 1:
            yield f"{number} jobs are named {title}: one submission made several"
    for job in jobs:
        row = rows.get(job.id)
        if row is None:
            yield f"{job.title} is not in the database"
            continue
        if job.priority is not None and row["priority"] != job.priority:
            yield f"{job.title}: its priority is {row['priority']}, {job.priority} was acknowledged"
        if job.cancelled_ms is not None and row["status"] != "cancelled":
            yield f"{job.title} was cancelled and is {row['status']}"
        if job.deleted != (row["deleted_ms"] is not None):
            expected = "deleted" if job.deleted else "not deleted"
            yield f"{job.title} should be {expected}"
        quiet = [*job.holds, *([(job.cancelled_ms, 1 << 62)] if job.cancelled_ms is not None else [])]
        for a in database.all("SELECT id, assigned_ms FROM attempts WHERE job_id = ?", job.id):
            if any(since < a["assigned_ms"] < until for since, until in quiet):
                yield f"{job.title}: {a['id']} was assigned while the job was held or after it was cancelled"
        for frame, asked_ms in job.redone.items():
            if job.cancelled_ms is None:
                newest = (
                    "SELECT MAX(committed_ms) FROM frames WHERE job_id = ? AND frame = ? AND revision > 0"
                )
                at = database.one(newest, job.id, frame)[0]
                if at is None or at < asked_ms:
                    yield f"{job.title}: frame {frame} was not rendered again"
    content = {p.parent.name: p for p in (database.data / "store/content").rglob("*") if p.is_file()}
    for path, sha256 in uploads.items():
        file = content.get(sha256)
        if file is None or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            yield f"the content of upload {path} is not stored"
    known = {r["name"] for r in database.all("SELECT name FROM projects")}
    for name in projects:
        if name not in known:
            yield f"the project {name} is not in the database"


def ended_well(jobs: Iterable[KnownJob]) -> Iterator[str]:
    """No job failed, since all scenes are good: a job is cancelled if an artist did so, else a success."""
    for job in jobs:
        expected = "cancelled" if job.cancelled_ms is not None else "success"
        if job.status != expected:
            yield f"{job.title} ({job.id}) is {job.status}, not {expected}"


def no_leftovers(
    data: Path, mounts_before: set[str], mounts_after: set[str], processes: list[str], temporary: list[str]
) -> Iterator[str]:
    """No process, mount or temporary file remains."""
    for process in processes:
        yield f"a process remains: {process}"
    for mount in mounts_after - mounts_before:
        yield f"a mount remains: {mount}"
    for name in temporary:
        yield f"a temporary file remains: {name}"
    for folder in ("sessions", "store/staging", "store/incoming"):
        for path in sorted((data / folder).rglob("*")):
            if path.is_file() or folder == "sessions" or path.parent.parent.name == "staging":
                yield f"a file or folder remains: {path.relative_to(data)}"
    for path in data.rglob("*"):
        if path.suffix in {".part", ".new"}:
            yield f"a file or folder remains: {path.relative_to(data)}"
