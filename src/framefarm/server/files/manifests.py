"""A job's snapshot of its inputs: each path and the exact content it had.

Sorted, compressed, stored once under its SHA-256 before the transaction; content references hang on it.
A snapshot may have 100,000 paths: statements take lists whole (`listed`), and rows stay tuples.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
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
from framefarm.server.rows import JobRow
from framefarm.server.storage import keys
from framefarm.server.storage.local import LocalStore
from framefarm.server.tenancy import farmwide, scoped

CLAIM_MS = 600_000
"""A claim is renewed once it is that old. Nothing is condemned that is younger than an hour."""


class Entry(NamedTuple):
    """One input. While it is missing `size`, `generation` and `registered_ms` are None, and the digests
    are what it is pinned to, or None.
    """

    path: str
    sha256: str | None
    md5: str | None
    size: int | None
    generation: int | None
    registered_ms: int | None

    @property
    def is_here(self) -> bool:
        return self.generation is not None

    def content_key(self, account_id: str) -> str:
        """Storage key of its bytes. Only of an input that is here."""
        assert self.sha256 is not None and self.generation is not None
        return keys.content(account_id, self.sha256, self.generation)


class Snapshot(NamedTuple):
    """Sorted by path. `used`: present ones that an earlier job used, with nothing registered since."""

    entries: list[Entry]
    missing: list[str]
    used: list[str]


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


def changed(tx: Tx, statement: sa.Executable) -> int:
    """Rows that an INSERT … ON CONFLICT or an UPDATE has touched, which SQLAlchemy keeps only if asked."""
    return tx.conn.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def listed(tx: Tx, *columns: Sequence[str | None]) -> sa.Select[Any]:
    """Lists of text, bound whole, as the rows of a SELECT: for IN, and for INSERT … SELECT."""
    if tx.conn.dialect.name == "postgresql":
        arrays = [sa.literal(list(c), postgresql.ARRAY(sa.Text)) for c in columns]
        names = [sa.column(f"c{i}", sa.Text) for i in range(len(columns))]
        return sa.select(sa.func.unnest(*arrays).table_valued(*names, name="listed").render_derived())
    if len(columns) == 1:
        text = json.dumps(list(columns[0]))
        return sa.select(sa.func.json_each(text).table_valued(sa.column("value", sa.Text)).c.value)
    rows = sa.func.json_each(json.dumps(list(zip(*columns, strict=True))))
    value = rows.table_valued(sa.column("value", sa.Text)).c.value
    return sa.select(*(sa.func.json_extract(value, f"$[{i}]") for i in range(len(columns))))


def snapshot(tx: Tx, account_id: str, user_id: str, paths: Sequence[str], pins: Pins) -> Snapshot:
    """Each path → the content last registered for it by this user, or pinned.

    Of a pin (MD5, SHA-256) the SHA-256 decides; an MD5 alone is missing where two contents share it. No
    registration of this user falls between a snapshot and the end of its transaction, and so none between
    a snapshot and the job's missing_paths.
    """
    lock(tx, user_id)
    rows = tx.conn.execute(_registered(tx, account_id, user_id, paths)).all()
    registered: dict[str, Any] = {row[0]: row for row in rows}
    by_sha, by_md5 = _pinned(tx, account_id, pins, registered)
    entries, missing, used = [], [], []
    for path in sorted(paths):
        row = registered.get(path)
        md5, sha = pins.get(path, (None, None))
        content = None
        if row is not None and sha in {None, row[1]} and (sha is not None or md5 in {None, row[2]}):
            content = row[1:5] if row[4] is not None else None
        elif sha is not None:
            content = by_sha.get(sha)
        elif md5 is not None:
            same = by_md5.get(md5, ())
            content = same[0] if len(same) == 1 else None
        if content is None:
            missing.append(path)
            entries.append(Entry(path, sha, md5, None, None, None))
            continue
        when = None
        if row is not None and row[1] == content[0]:
            when = row[5]
            if row[6] is not None:
                used.append(path)
        entries.append(Entry(path, content[0], content[1], content[2], content[3], when))
    return Snapshot(entries, missing, used)


def _registered(tx: Tx, account_id: str, user_id: str, paths: Sequence[str]) -> sa.Select[Any]:
    """path, SHA-256, MD5, size, generation (None: the content is gone), registered_ms, used_ms."""
    content = (
        (contents.c.account_id == registrations.c.account_id)
        & (contents.c.sha256 == registrations.c.sha256)
        & contents.c.condemned_ms.is_(None)
    )
    r = registrations.c
    query = sa.select(r.path, r.sha256, r.md5, r.size, contents.c.generation, r.registered_ms, r.used_ms)
    return (
        scoped(query, registrations, account_id)
        .outerjoin(contents, content)
        .where(r.user_id == user_id, r.path.in_(listed(tx, paths)))
    )


def _pinned(
    tx: Tx, account_id: str, pins: Pins, registered: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The account's contents by pinned SHA-256 and by pinned MD5, where no registration tells already."""
    shas, md5s = set(), set()
    for path, (md5, sha) in pins.items():
        row = registered.get(path)
        if sha is not None:
            if row is None or row[1] != sha:
                shas.add(sha)
        elif md5 is not None and (row is None or row[2] != md5):
            md5s.add(md5)
    by_md5: dict[str, list[Any]] = {}
    for row in existing(tx, account_id, contents.c.md5, sorted(md5s)):
        by_md5.setdefault(row.md5, []).append(row)
    return {r.sha256: r for r in existing(tx, account_id, contents.c.sha256, sorted(shas))}, by_md5


CONTENT = (contents.c.sha256, contents.c.md5, contents.c.size, contents.c.generation)


def existing(tx: Tx, account_id: str, column: sa.Column[Any], values: Sequence[str]) -> list[Any]:
    """The account's contents (`CONTENT`) whose `column` is among `values`; condemned ones do not exist."""
    if not values:
        return []
    query = scoped(sa.select(*CONTENT), contents, account_id).where(
        column.in_(listed(tx, values)), contents.c.condemned_ms.is_(None)
    )
    return list(tx.conn.execute(query))


def claim(tx: Tx, account_id: str, column: sa.Column[Any], values: Sequence[str]) -> None:
    """Someone wants the contents whose `column` is among `values`: they are not collected for a while.

    Claim first, then look (`existing`, `snapshot`): what is found then stays to the transaction's end, as
    whoever would condemn it waits for the claimed row, and sees that it is young.
    """
    if not values:
        return
    mine = scoped(sa.update(contents), contents, account_id).where(
        column.in_(listed(tx, values)),
        contents.c.last_claimed_ms < tx.now_ms - CLAIM_MS,
        contents.c.condemned_ms.is_(None),
    )
    tx.conn.execute(mine.values(last_claimed_ms=tx.now_ms))


def claim_entries(tx: Tx, account_id: str, entries: Sequence[Entry]) -> None:
    """Claim what a snapshot has found; another snapshot then tells what of it is still there."""
    claim(tx, account_id, contents.c.sha256, sorted({e.sha256 for e in entries if e.sha256 and e.is_here}))


def encode(entries: Sequence[Entry]) -> bytes:
    """The manifest's text: a JSON array a line, in order of paths."""
    return msgspec.json.Encoder().encode_lines(sorted(entries))


def store(objects: LocalStore, account_id: str, entries: Sequence[Entry]) -> str:
    """Store the manifest, once; returns the SHA-256 of its text. Without a row it stays for a day."""
    text = encode(entries)
    sha256 = hashlib.sha256(text).hexdigest()
    key = keys.manifest(account_id, sha256)
    if not objects.touch(key):
        with contextlib.suppress(FileExistsError):
            packed = zstandard.ZstdCompressor(level=3).compress(text)
            objects.put([packed], key, if_absent=True)
    return sha256


def load(objects: LocalStore, account_id: str, sha256: str) -> Iterator[Entry]:
    """The entries, in order of paths."""
    decoder = msgspec.json.Decoder(Entry)
    with objects.get(keys.manifest(account_id, sha256)) as raw:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw)):
            yield decoder.decode(line)


def record(tx: Tx, account_id: str, sha256: str, entries: Sequence[Entry]) -> None:
    """Hang the content references on the manifest. Its row is locked, so that nobody collects it meanwhile;
    of an older one some references may be gone already."""
    shas = sorted({e.sha256 for e in entries if e.sha256 is not None and e.is_here})
    new = insert(tx, manifests).values(
        account_id=account_id,
        sha256=sha256,
        entries=len(entries),
        size=sum(e.size or 0 for e in entries),
        created_ms=tx.now_ms,
    )
    taken = new.on_conflict_do_update(
        index_elements=["account_id", "sha256"], set_={"created_ms": new.excluded.created_ms}
    )
    tx.conn.execute(taken)
    if shas:
        rows = listed(tx, shas).add_columns(sa.literal(account_id), sa.literal(sha256)).where(sa.true())
        names = ["content_sha256", "account_id", "manifest_sha256"]
        tx.conn.execute(insert(tx, manifest_contents).from_select(names, rows).on_conflict_do_nothing())


def await_missing(tx: Tx, account_id: str, user_id: str, job_id: str, entries: Sequence[Entry]) -> None:
    """Write down what a job waits for: whoever registers it finds the job."""
    lacking = [e for e in entries if not e.is_here]
    if not lacking:
        return
    columns = listed(tx, [e.path for e in lacking], [e.md5 for e in lacking], [e.sha256 for e in lacking])
    rows = columns.add_columns(sa.literal(job_id), sa.literal(account_id), sa.literal(user_id))
    names = ["path", "md5", "sha256", "job_id", "account_id", "user_id"]
    tx.conn.execute(sa.insert(missing_paths).from_select(names, rows))


def missing_count(tx: Tx, job_id: str) -> int:
    query = farmwide(sa.select(sa.func.count()).select_from(missing_paths))
    return int(tx.conn.execute(query.where(missing_paths.c.job_id == job_id)).scalar_one())


def complete(tx: Tx, objects: LocalStore, job: JobRow) -> str | None:
    """The manifest of a job whose last missing file arrived; its SHA-256.

    What was missing is taken as registered now, or as pinned. None: something that had arrived is gone again;
    the job waits for it.
    """
    account_id, user_id = job.account_id, job.user_id
    entries = list(load(objects, account_id, job.manifest_sha256))
    lacking = [e for e in entries if not e.is_here]
    pins = {e.path: (e.md5, e.sha256) for e in lacking if e.md5 is not None or e.sha256 is not None}
    paths = [e.path for e in lacking]
    claim_entries(tx, account_id, snapshot(tx, account_id, user_id, paths, pins).entries)
    now = snapshot(tx, account_id, user_id, paths, pins)
    if now.missing:
        await_missing(tx, account_id, user_id, job.id, now.entries)
        return None
    whole = [e for e in entries if e.is_here] + now.entries
    sha256 = store(objects, account_id, whole)
    record(tx, account_id, sha256, whole)
    return sha256


def mark_used(tx: Tx, user_id: str, paths: Sequence[str]) -> None:
    """A job took these paths; a registration takes the mark away. See `Snapshot.used`."""
    mine = farmwide(sa.update(registrations)).where(
        registrations.c.user_id == user_id,
        registrations.c.path.in_(listed(tx, paths)),
        registrations.c.used_ms.is_(None),
    )
    tx.conn.execute(mine.values(used_ms=tx.now_ms))
