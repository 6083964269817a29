"""A job's snapshot of its inputs: each path and the exact content it had.

Sorted, compressed, stored once under its SHA-256 before the transaction; content references hang on it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import zstandard
from sqlalchemy.dialects import postgresql, sqlite

from framefarm.server.database import Tx
from framefarm.server.files.tables import (
    contents,
    manifest_contents,
    manifests,
    missing_paths,
    registrations,
)
from framefarm.server.storage.local import LocalStore
from framefarm.server.tenancy import farmwide, scoped

CHUNK = 500
"""Values in one IN (…)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One input. `sha256`, `md5`, `size`, `generation` are None while it is missing."""

    path: str
    sha256: str | None
    md5: str | None
    size: int | None
    generation: int | None
    registered_ms: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    entries: list[Entry]
    missing: list[str]


Pins = dict[str, tuple[str | None, str | None]]


def md5_hex(text: str) -> str | None:
    """An MD5 as 32 hex digits, from those or from 24 characters of base64; None if it is neither."""
    if len(text) == 24:
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError:
            return None
        return raw.hex() if len(raw) == 16 else None
    lower = text.lower()
    return lower if len(lower) == 32 and not set(lower) - set("0123456789abcdef") else None


def lock(tx: Tx, name: str) -> None:
    """Until the transaction ends, nobody else holds `name` (a user's or an account's id).

    SQLite has one writer, which is enough.
    """
    if tx.conn.dialect.name == "postgresql":
        tx.conn.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def insert(tx: Tx, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say ON CONFLICT."""
    return postgresql.insert(table) if tx.conn.dialect.name == "postgresql" else sqlite.insert(table)


def snapshot(tx: Tx, account_id: str, user_id: str, paths: Sequence[str], pins: Pins) -> Snapshot:
    """Each path → the content last registered for it by this user, or pinned.

    Of a pin (MD5, SHA-256) the SHA-256 decides; an MD5 alone is missing where two contents share it. No
    registration of this user falls between a snapshot and the end of its transaction, and so none between
    a snapshot and the job's missing_paths.
    """
    lock(tx, user_id)
    known: dict[str, Any] = {}
    for part in chunks(paths):
        query = scoped(sa.select(*REGISTERED), registrations, account_id).where(
            registrations.c.user_id == user_id, registrations.c.path.in_(part)
        )
        known |= {r.path: r for r in tx.conn.execute(query)}
    wanted = {r.sha256 for r in known.values()}
    wanted |= {sha for _, sha in pins.values() if sha is not None}
    by_sha = {r.sha256: r for r in existing(tx, account_id, contents.c.sha256, sorted(wanted))}
    md5s = sorted({md5 for md5, sha in pins.values() if sha is None and md5 is not None})
    by_md5: dict[str, list[Any]] = {}
    for row in existing(tx, account_id, contents.c.md5, md5s):
        by_md5.setdefault(row.md5, []).append(row)
    entries, missing = [], []
    for path in sorted(paths):
        md5, sha = pins.get(path, (None, None))
        registered = known.get(path)
        content = None
        if sha is not None:
            content = by_sha.get(sha)
        elif md5 is not None and (registered is None or registered.md5 != md5):
            same = by_md5.get(md5, [])
            content = same[0] if len(same) == 1 else None
        elif registered is not None:
            content = by_sha.get(registered.sha256)
        if content is None:
            missing.append(path)
            entries.append(Entry(path, None, None, None, None, None))
            continue
        when = None
        if registered is not None and registered.sha256 == content.sha256:
            when = registered.registered_ms
        entries.append(Entry(path, content.sha256, content.md5, content.size, content.generation, when))
    return Snapshot(entries, missing)


REGISTERED = (
    registrations.c.path,
    registrations.c.sha256,
    registrations.c.md5,
    registrations.c.registered_ms,
)
CONTENT = (contents.c.sha256, contents.c.md5, contents.c.size, contents.c.generation)


def existing(tx: Tx, account_id: str, column: sa.Column[Any], values: Sequence[str]) -> list[Any]:
    """The account's contents (`CONTENT`) whose `column` is among `values`; condemned ones do not exist."""
    found: list[Any] = []
    for part in chunks(values):
        query = scoped(sa.select(*CONTENT), contents, account_id).where(
            column.in_(part), contents.c.condemned_ms.is_(None)
        )
        found += tx.conn.execute(query).all()
    return found


def claim(tx: Tx, account_id: str, sha256s: Sequence[str]) -> None:
    """Someone said that they want these contents: they are not collected for a while."""
    for part in chunks(sha256s):
        mine = scoped(sa.update(contents), contents, account_id).where(contents.c.sha256.in_(part))
        tx.conn.execute(mine.values(last_claimed_ms=tx.now_ms))


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def _encode(entries: Sequence[Entry]) -> bytes:
    lines = io.StringIO()
    for e in sorted(entries, key=lambda e: e.path):
        row = [e.path, e.sha256, e.md5, e.size, e.generation, e.registered_ms]
        lines.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    return lines.getvalue().encode()


def store(objects: LocalStore, account_id: str, entries: Sequence[Entry]) -> str:
    """Store the manifest, once; returns the SHA-256 of its text."""
    text = _encode(entries)
    sha256 = hashlib.sha256(text).hexdigest()
    with contextlib.suppress(FileExistsError):
        packed = zstandard.ZstdCompressor(level=3).compress(text)
        objects.put([packed], f"manifests/{account_id}/{sha256}", if_absent=True)
    return sha256


def load(objects: LocalStore, account_id: str, sha256: str) -> Iterator[Entry]:
    """The entries, in order of paths."""
    with objects.get(f"manifests/{account_id}/{sha256}") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw)
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield Entry(*json.loads(line))


def record(tx: Tx, account_id: str, sha256: str, entries: Sequence[Entry]) -> None:
    """Hang the content references on the manifest, if it is new; claim the contents."""
    shas = sorted({e.sha256 for e in entries if e.sha256 is not None})
    new = insert(tx, manifests).values(
        account_id=account_id,
        sha256=sha256,
        entries=len(entries),
        size=sum(e.size or 0 for e in entries),
        created_ms=tx.now_ms,
    )
    # Not `rowcount`: it is -1 on PostgreSQL where nothing was inserted.
    fresh = tx.conn.execute(new.on_conflict_do_nothing().returning(manifests.c.sha256)).first()
    if fresh is not None and shas:
        rows = [{"account_id": account_id, "manifest_sha256": sha256, "content_sha256": s} for s in shas]
        tx.conn.execute(sa.insert(manifest_contents), rows)
    claim(tx, account_id, shas)


def missing_count(tx: Tx, job_id: str) -> int:
    query = farmwide(sa.select(sa.func.count()).select_from(missing_paths))
    return int(tx.conn.execute(query.where(missing_paths.c.job_id == job_id)).scalar_one())


def complete(tx: Tx, objects: LocalStore, job: Any) -> str:
    """The manifest of a job whose last missing file arrived; its SHA-256.

    What was missing is taken as registered now, or as pinned.
    """
    account_id, user_id = job["account_id"], job["user_id"]
    entries = list(load(objects, account_id, job["manifest_sha256"]))
    lacking = [e.path for e in entries if e.sha256 is None]
    pins: Pins = {p: (pin[0], pin[1]) for p, pin in (job["request"].get("late_pins") or {}).items()}
    arrived = {e.path: e for e in snapshot(tx, account_id, user_id, lacking, pins).entries}
    whole = [arrived.get(e.path, e) if e.sha256 is None else e for e in entries]
    sha256 = store(objects, account_id, whole)
    record(tx, account_id, sha256, whole)
    return sha256


def previous_use(tx: Tx, user_id: str, paths: Sequence[str]) -> list[str]:
    """Paths that an earlier job of this user used, with nothing registered for them since."""
    found: list[str] = []
    for part in chunks(paths):
        query = farmwide(sa.select(registrations.c.path)).where(
            registrations.c.user_id == user_id,
            registrations.c.path.in_(part),
            registrations.c.used_ms.is_not(None),
        )
        found += tx.conn.execute(query).scalars()
    return sorted(found)


def mark_used(tx: Tx, user_id: str, paths: Sequence[str]) -> None:
    """A job took these paths; a registration takes the mark away. See `previous_use`."""
    for part in chunks(paths):
        mine = farmwide(sa.update(registrations)).where(
            registrations.c.user_id == user_id, registrations.c.path.in_(part)
        )
        tx.conn.execute(mine.values(used_ms=tx.now_ms))
