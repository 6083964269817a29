"""What accounts have uploaded: content by SHA-256, MD5 as an index, paths registered per user.

Everything here speaks of one account's content alone: a hash gives nobody another account's bytes, nor tells
that they exist.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import FieldError, InvalidInput, TooLarge
from framefarm.core.paths import normalise
from framefarm.protocol.api_files import FileCheck
from framefarm.server.accounts.tables import accounts
from framefarm.server.actor import Actor
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files.manifests import changed, claim, existing, insert, listed, lock, md5_hex, snapshot
from framefarm.server.files.tables import contents, missing_paths, registrations
from framefarm.server.tenancy import scoped

MAX_GENERATION = (1 << 31) - 1
"""The largest number that the column holds."""


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of an account: `size` in bytes, digests as hex."""

    sha256: str
    md5: str
    size: int


class ContentMoved(Exception):
    """What is to be stored came or went meanwhile: ask `next_generation` again."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    md5: str
    sha256: str | None
    path: str | None
    size: int | None


def check(
    tx: Tx, context: AppContext, actor: Actor, files: list[FileCheck], *, many: bool
) -> list[dict[str, bool]]:
    """For each file: is its content here, and was it registered under its path. In the given order.

    Raises InvalidInput with every bad field, of `files[i]` where there are `many`.
    """
    wanted = _wanted(files, many)
    md5s = sorted({w.md5 for w in wanted})
    claim(tx, actor.account_id, contents.c.md5, md5s)
    by_md5: dict[str, list[Any]] = {}
    for row in existing(tx, actor.account_id, contents.c.md5, md5s):
        by_md5.setdefault(row.md5, []).append(row)
    found = [_decide(w, by_md5.get(w.md5, [])) for w in wanted]
    fresh = {w.path: c for w, c in zip(wanted, found, strict=True) if w.path is not None and c is not None}
    if fresh:
        register(tx, context, actor, fresh)
    return [
        {"exists": c is not None, "registered": c is not None and w.path is not None}
        for w, c in zip(wanted, found, strict=True)
    ]


def _wanted(files: list[FileCheck], many: bool) -> list[_Wanted]:
    errors: list[FieldError] = []
    wanted = []
    for i, file in enumerate(files):
        at = f"files[{i}]." if many else ""
        md5 = md5_hex(file.md5)
        if md5 is None:
            text = "must be 32 hex digits, or 24 characters of base64"
            errors.append(FieldError(f"{at}md5", text, file.md5))
        sha = file.sha256.lower() if file.sha256 is not None else None
        if sha is not None and (len(sha) != 64 or set(sha) - set("0123456789abcdef")):
            errors.append(FieldError(f"{at}sha256", "must be 64 hex digits", file.sha256))
        path = None
        if file.path is not None:
            try:
                path = normalise(file.path).text
            except ValueError as error:
                errors.append(FieldError(f"{at}path", str(error), file.path[:200]))
        wanted.append(_Wanted(md5 or "", sha, path, file.size))
    if errors:
        raise InvalidInput(errors)
    return wanted


def _decide(wanted: _Wanted, same_md5: Sequence[Any]) -> Content | None:
    """The content meant: the SHA-256 decides; without one, an MD5 must be unambiguous and the size fit."""
    if wanted.sha256 is not None:
        rows = [r for r in same_md5 if r.sha256 == wanted.sha256]
    elif len(same_md5) == 1 and wanted.size in {None, same_md5[0].size}:
        rows = list(same_md5)
    else:
        rows = []
    return Content(rows[0].sha256, rows[0].md5, rows[0].size) if rows else None


@dataclass(frozen=True, slots=True)
class FilesArrived:
    """Files that these jobs waited for are registered: published by `register`, in its transaction."""

    job_ids: list[str]


def register(tx: Tx, context: AppContext, actor: Actor, fresh: dict[str, Content]) -> list[str]:
    """These paths now have these contents (claimed before) for this user; jobs that waited for them go on.

    Returns the ids of the jobs that waited for one of them.
    """
    lock(tx, actor.user_id)
    rows = [
        {
            "account_id": actor.account_id,
            "user_id": actor.user_id,
            "path": path,
            "sha256": content.sha256,
            "md5": content.md5,
            "size": content.size,
            "registered_ms": tx.now_ms,
            "used_ms": None,
        }
        for path, content in fresh.items()
    ]
    new = insert(tx, registrations)
    again = {c: new.excluded[c] for c in ("sha256", "md5", "size", "registered_ms", "used_ms")}
    tx.conn.execute(new.on_conflict_do_update(index_elements=["user_id", "path"], set_=again), rows)
    job_ids = _satisfy(tx, actor, fresh)
    if job_ids:
        tx.publish(FilesArrived(job_ids))
    return job_ids


def _satisfy(tx: Tx, actor: Actor, fresh: dict[str, Content]) -> list[str]:
    """Strike what the user's waiting jobs miss no more, by path or by pinned content; their ids."""
    waiting: dict[str, dict[str, tuple[str | None, str | None]]] = {}
    for column, values in (
        (missing_paths.c.path, set(fresh)),
        (missing_paths.c.sha256, {c.sha256 for c in fresh.values()}),
        (missing_paths.c.md5, {c.md5 for c in fresh.values()}),
    ):
        query = scoped(sa.select(missing_paths), missing_paths, actor.account_id).where(
            missing_paths.c.user_id == actor.user_id, column.in_(listed(tx, sorted(values)))
        )
        for row in tx.conn.execute(query):
            waiting.setdefault(row.job_id, {})[row.path] = (row.md5, row.sha256)
    satisfied = []
    for job_id, lacking in sorted(waiting.items()):
        pins = {path: pin for path, pin in lacking.items() if pin != (None, None)}
        still = snapshot(tx, actor.account_id, actor.user_id, list(lacking), pins).missing
        arrived = sorted(set(lacking) - set(still))
        gone = scoped(sa.delete(missing_paths), missing_paths, actor.account_id).where(
            missing_paths.c.job_id == job_id, missing_paths.c.path.in_(listed(tx, arrived))
        )
        tx.conn.execute(gone)
        if arrived:
            satisfied.append(job_id)
    return satisfied


def quota_left(tx: Tx, context: AppContext, account_id: str) -> int | None:
    """Bytes the account may still store; None: no quota."""
    own = tx.conn.execute(sa.select(accounts.c.quota_bytes).where(accounts.c.id == account_id)).scalar()
    quota = own if own is not None else context.settings.account_quota_bytes
    if quota is None:
        return None
    lock(tx, account_id)
    used = scoped(sa.select(sa.func.coalesce(sa.func.sum(contents.c.size), 0)), contents, account_id)
    return max(0, quota - int(tx.conn.execute(used.where(contents.c.condemned_ms.is_(None))).scalar_one()))


def _row(tx: Tx, account_id: str, sha256: str) -> Any:
    """The account's row for a SHA-256, condemned or not; None if there is none."""
    query = scoped(sa.select(contents), contents, account_id).where(contents.c.sha256 == sha256)
    return tx.conn.execute(query).one_or_none()


def next_generation(tx: Tx, account_id: str, sha256: str) -> int | None:
    """Where to store bytes of that SHA-256; None if they are here already.

    Drawn, so that no object's key is ever used again: whoever removes one cannot hit another.
    """
    row = _row(tx, account_id, sha256)
    if row is not None and row.condemned_ms is None:
        return None
    return 1 + secrets.randbelow(MAX_GENERATION)


def stored(
    tx: Tx, context: AppContext, actor: Actor, path: str, content: Content, generation: int | None
) -> dict[str, object]:
    """Bytes are durable under `generation` (None: they were here): make them content, register the path.

    `deduplicated`: they were here, and the object is not needed. Raises TooLarge over the quota, and
    ContentMoved; the object is not needed then either.
    """
    claim(tx, actor.account_id, contents.c.sha256, [content.sha256])
    row = _row(tx, actor.account_id, content.sha256)
    duplicate = row is not None and row.condemned_ms is None
    if not duplicate:
        if generation is None:
            raise ContentMoved
        left = quota_left(tx, context, actor.account_id)
        if left is not None and content.size > left:
            raise over_quota(left)
        _keep(tx, actor.account_id, content, generation, row)
    register(tx, context, actor, {path: content})
    return {
        "path": path,
        "size": content.size,
        "md5": content.md5,
        "sha256": content.sha256,
        "deduplicated": duplicate,
    }


def _keep(tx: Tx, account_id: str, content: Content, generation: int, condemned: Any) -> None:
    """Write the row, or make a new generation of a condemned one. Raises ContentMoved."""
    values = {
        "generation": generation,
        "md5": content.md5,
        "size": content.size,
        "last_claimed_ms": tx.now_ms,
        "condemned_ms": None,
    }
    if condemned is None:
        key = {"account_id": account_id, "sha256": content.sha256, "created_ms": tx.now_ms}
        change: sa.Executable = insert(tx, contents).values(**key, **values).on_conflict_do_nothing()
    else:
        mine = scoped(sa.update(contents), contents, account_id).where(
            contents.c.sha256 == content.sha256, contents.c.generation == condemned.generation
        )
        change = mine.values(values)
    if not changed(tx, change):
        raise ContentMoved


def over_quota(left: int) -> TooLarge:
    return TooLarge(f"The account may store {left} more bytes; the file is larger.")
