"""Manifests: each path of a job's inputs with the exact content that it had at submission.

A manifest is sorted by path, compressed with Zstandard and stored once under its SHA-256, before the
transaction that writes its row and its content references. It may have 100,000 paths: statements take whole
lists (`listed`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
"""Age at which a claim is renewed. Content is condemned an hour after its last claim at the earliest."""


class Entry(NamedTuple):
    """One input: a line of the manifest, as a JSON array.

    A missing input has None for `size` (bytes), `generation` and `registered_ms`, and its pinned digests or
    None.
    """

    path: str
    sha256: str | None
    md5: str | None
    size: int | None
    generation: int | None
    registered_ms: int | None

    @property
    def is_here(self) -> bool:
        """Whether the input has content."""
        return self.generation is not None

    def content_key(self, account_id: str) -> str:
        """Storage key of the bytes of an input that is here."""
        assert self.sha256 is not None and self.generation is not None
        return keys.content(account_id, self.sha256, self.generation)


class Snapshot(NamedTuple):
    """Inputs of a submission, sorted by path. `used`: those unchanged since an earlier job used them."""

    entries: list[Entry]
    missing: list[str]
    used: list[str]


Pins = dict[str, tuple[str | None, str | None]]
"""Path → (MD5 in hex or None, SHA-256 or None) that the submission demands for it."""


def md5_hex(text: str) -> str | None:
    """An MD5 as 32 hex digits, from hex or from 24 characters of base64; None if it is neither."""
    if len(text) == 24:
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError:
            return None
        return raw.hex() if len(raw) == 16 else None
    lower = text.lower()
    return lower if len(lower) == 32 and not set(lower) - set("0123456789abcdef") else None


def lock(tx: Tx, name: str) -> None:
    """Hold an exclusive lock on `name` (a user's or an account's id) until the transaction ends.

    A no-op on SQLite, which has one writer.
    """
    if tx.conn.dialect.name == "postgresql":
        tx.conn.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def insert(tx: Tx, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that supports ON CONFLICT, for the database in use."""
    return postgresql.insert(table) if tx.conn.dialect.name == "postgresql" else sqlite.insert(table)


def changed(tx: Tx, statement: sa.Executable) -> int:
    """Execute an INSERT … ON CONFLICT or an UPDATE; returns the number of changed rows."""
    return tx.conn.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def listed(tx: Tx, *columns: Sequence[str | None]) -> sa.Select[Any]:
    """SELECT of these columns of text, each bound as one parameter: for IN, and for INSERT … SELECT."""
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
    """Match each path with the content that this user last registered for it, or with its pin.

    The SHA-256 of a pin decides; by an MD5 alone the path is missing if two contents share it. Locks the
    user's id: no registration of this user comes between a snapshot and the job's missing_paths.
    """
    lock(tx, user_id)
    rows = tx.rows(_Registered, _registered(tx, account_id, user_id, paths))
    registered = {row.path: row for row in rows}
    by_sha, by_md5 = _pinned(tx, account_id, pins, registered)
    entries, missing, used = [], [], []
    for path in sorted(paths):
        row = registered.get(path)
        md5, sha = pins.get(path, (None, None))
        content: StoredContent | None = None
        if row is not None and sha in {None, row.sha256} and (sha is not None or md5 in {None, row.md5}):
            if row.generation is not None:
                content = StoredContent(row.sha256, row.md5, row.size, row.generation)
        elif sha is not None:
            content = by_sha.get(sha)
        elif md5 is not None:
            same = by_md5.get(md5, [])
            content = same[0] if len(same) == 1 else None
        if content is None:
            missing.append(path)
            entries.append(Entry(path, sha, md5, None, None, None))
            continue
        registered_ms = None
        if row is not None and row.sha256 == content.sha256:
            registered_ms = row.registered_ms
            if row.used_ms is not None:
                used.append(path)
        entries.append(
            Entry(path, content.sha256, content.md5, content.size, content.generation, registered_ms)
        )
    return Snapshot(entries, missing, used)


@dataclass(frozen=True, slots=True)
class _Registered:
    """A path as its user last registered it. `generation` is None if the content is condemned or removed."""

    path: str
    sha256: str
    md5: str
    size: int
    generation: int | None
    registered_ms: int
    used_ms: int | None


@dataclass(frozen=True, slots=True)
class StoredContent:
    """Content that is not condemned: its digests in hex, size in bytes, and the generation of its object."""

    sha256: str
    md5: str
    size: int
    generation: int


def _registered(tx: Tx, account_id: str, user_id: str, paths: Sequence[str]) -> sa.Select[Any]:
    """Query of `_Registered` rows."""
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
    tx: Tx, account_id: str, pins: Pins, registered: Mapping[str, _Registered]
) -> tuple[dict[str, StoredContent], dict[str, list[StoredContent]]]:
    """Contents by pinned SHA-256 and by pinned MD5, for the pins that no registration satisfies."""
    shas, md5s = set(), set()
    for path, (md5, sha) in pins.items():
        row = registered.get(path)
        if sha is not None:
            if row is None or row.sha256 != sha:
                shas.add(sha)
        elif md5 is not None and (row is None or row.md5 != md5):
            md5s.add(md5)
    by_md5: dict[str, list[StoredContent]] = {}
    for content in existing(tx, account_id, contents.c.md5, sorted(md5s)):
        by_md5.setdefault(content.md5, []).append(content)
    return {r.sha256: r for r in existing(tx, account_id, contents.c.sha256, sorted(shas))}, by_md5


CONTENT = (contents.c.sha256, contents.c.md5, contents.c.size, contents.c.generation)


def existing(tx: Tx, account_id: str, column: sa.Column[Any], values: Sequence[str]) -> list[StoredContent]:
    """The account's contents whose `column` is among `values`, except condemned ones."""
    if not values:
        return []
    query = scoped(sa.select(*CONTENT), contents, account_id).where(
        column.in_(listed(tx, values)), contents.c.condemned_ms.is_(None)
    )
    return tx.rows(StoredContent, query)


def claim(tx: Tx, account_id: str, column: sa.Column[Any], values: Sequence[str]) -> None:
    """Renew the claims of the contents whose `column` is among `values`: they are not condemned for a while.

    Claim first, then read (`existing`, `snapshot`). Content that is read then stays until the transaction
    ends: a retention pass that would condemn it waits for the claimed row, and then sees the new claim.
    """
    if not values:
        return
    change = scoped(sa.update(contents), contents, account_id).where(
        column.in_(listed(tx, values)),
        contents.c.last_claimed_ms < tx.now_ms - CLAIM_MS,
        contents.c.condemned_ms.is_(None),
    )
    tx.conn.execute(change.values(last_claimed_ms=tx.now_ms))


def claim_entries(tx: Tx, account_id: str, entries: Sequence[Entry]) -> None:
    """Claim the contents of a snapshot. Take another snapshot afterwards: some may have been condemned."""
    claim(tx, account_id, contents.c.sha256, sorted({e.sha256 for e in entries if e.sha256 and e.is_here}))


def encode(entries: Sequence[Entry]) -> bytes:
    """The manifest's text: one JSON array (`Entry`) a line, in order of paths."""
    return msgspec.json.Encoder().encode_lines(sorted(entries))


def store(objects: LocalStore, account_id: str, entries: Sequence[Entry]) -> str:
    """Store the manifest if it is new; returns the SHA-256 of its text. Without a row it stays for a day."""
    text = encode(entries)
    sha256 = hashlib.sha256(text).hexdigest()
    key = keys.manifest(account_id, sha256)
    if not objects.touch(key):
        with contextlib.suppress(FileExistsError):
            packed = zstandard.ZstdCompressor(level=3).compress(text)
            objects.put([packed], key, if_absent=True)
    return sha256


def load(objects: LocalStore, account_id: str, sha256: str) -> Iterator[Entry]:
    """The entries of a stored manifest, in order of paths."""
    decoder = msgspec.json.Decoder(Entry)
    with objects.get(keys.manifest(account_id, sha256)) as raw:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw)):
            yield decoder.decode(line)


def record(tx: Tx, account_id: str, sha256: str, entries: Sequence[Entry]) -> None:
    """Write the manifest's row and content references.

    Locks the row against a retention pass, which may have removed some references of an older manifest.
    """
    shas = sorted({e.sha256 for e in entries if e.sha256 is not None and e.is_here})
    new = insert(tx, manifests).values(
        account_id=account_id,
        sha256=sha256,
        entries=len(entries),
        size=sum(e.size or 0 for e in entries),
        created_ms=tx.now_ms,
    )
    upsert = new.on_conflict_do_update(
        index_elements=["account_id", "sha256"], set_={"created_ms": new.excluded.created_ms}
    )
    tx.conn.execute(upsert)
    if shas:
        rows = listed(tx, shas).add_columns(sa.literal(account_id), sa.literal(sha256)).where(sa.true())
        names = ["content_sha256", "account_id", "manifest_sha256"]
        tx.conn.execute(insert(tx, manifest_contents).from_select(names, rows).on_conflict_do_nothing())


def await_missing(tx: Tx, account_id: str, user_id: str, job_id: str, entries: Sequence[Entry]) -> None:
    """Write the missing paths of a job; a registration of one of them finds the job by its row."""
    lacking = [e for e in entries if not e.is_here]
    if not lacking:
        return
    columns = listed(tx, [e.path for e in lacking], [e.md5 for e in lacking], [e.sha256 for e in lacking])
    rows = columns.add_columns(sa.literal(job_id), sa.literal(account_id), sa.literal(user_id))
    names = ["path", "md5", "sha256", "job_id", "account_id", "user_id"]
    tx.conn.execute(sa.insert(missing_paths).from_select(names, rows))


def missing_count(tx: Tx, job_id: str) -> int:
    """Number of paths that the job still waits for."""
    query = farmwide(sa.select(sa.func.count()).select_from(missing_paths))
    return int(tx.conn.execute(query.where(missing_paths.c.job_id == job_id)).scalar_one())


def complete(tx: Tx, objects: LocalStore, job: JobRow) -> str | None:
    """Store the manifest of a job whose last missing file arrived; returns its SHA-256.

    Missing paths get the content that is registered now, or pinned. None: an arrived file was condemned
    meanwhile, and the job waits for it again.
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
    complete_entries = [e for e in entries if e.is_here] + now.entries
    sha256 = store(objects, account_id, complete_entries)
    record(tx, account_id, sha256, complete_entries)
    return sha256


def mark_used(tx: Tx, user_id: str, paths: Sequence[str]) -> None:
    """Mark these paths as used by a job, until their next registration. See `Snapshot.used`."""
    change = farmwide(sa.update(registrations)).where(
        registrations.c.user_id == user_id,
        registrations.c.path.in_(listed(tx, paths)),
        registrations.c.used_ms.is_(None),
    )
    tx.conn.execute(change.values(used_ms=tx.now_ms))
