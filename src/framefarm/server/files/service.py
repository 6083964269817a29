"""Uploaded content of an account, by SHA-256 with MD5 as an index, and the paths registered for it by users.

Every function reads one account's content only: a hash reveals neither bytes of another account nor that they
exist.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.core.errors import FieldError, InvalidInput, TooLarge
from framefarm.core.paths import normalise
from framefarm.protocol.api_files import FileCheck
from framefarm.server.accounts.tables import accounts
from framefarm.server.actor import Actor
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files.manifests import (
    StoredContent,
    changed,
    claim,
    existing,
    insert,
    listed,
    lock,
    md5_hex,
    snapshot,
)
from framefarm.server.files.tables import contents, missing_paths, registrations
from framefarm.server.rows import ContentRow
from framefarm.server.tenancy import scoped

MAX_GENERATION = (1 << 31) - 1
"""Largest value of the column `generation`."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes: digests in hex, `size` in bytes."""

    sha256: str
    md5: str
    size: int


class ContentMoved(Exception):
    """The content was stored or condemned meanwhile: start again at `next_generation`."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    md5: str
    sha256: str | None
    path: str | None
    size: int | None


def check(
    tx: Tx, context: AppContext, actor: Actor, files: list[FileCheck], *, many: bool
) -> list[dict[str, bool]]:
    """For each file, in order: whether its content is stored, and whether its path is now registered.

    Raises InvalidInput with every bad field, named as in `files[i]` if `many`.
    """
    wanted = _wanted(files, many)
    md5s = sorted({w.md5 for w in wanted})
    claim(tx, actor.account_id, contents.c.md5, md5s)
    by_md5: dict[str, list[StoredContent]] = {}
    for row in existing(tx, actor.account_id, contents.c.md5, md5s):
        by_md5.setdefault(row.md5, []).append(row)
    matches = [_match(w, by_md5.get(w.md5, [])) for w in wanted]
    by_path = {
        w.path: c for w, c in zip(wanted, matches, strict=True) if w.path is not None and c is not None
    }
    if by_path:
        register(tx, context, actor, by_path)
    return [
        {"exists": c is not None, "registered": c is not None and w.path is not None}
        for w, c in zip(wanted, matches, strict=True)
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


def _match(wanted: _Wanted, same_md5: Sequence[StoredContent]) -> Content | None:
    """The content with the wanted SHA-256; without one, the only content with this MD5, if its size fits."""
    if wanted.sha256 is not None:
        rows = [r for r in same_md5 if r.sha256 == wanted.sha256]
    elif len(same_md5) == 1 and wanted.size in {None, same_md5[0].size}:
        rows = list(same_md5)
    else:
        rows = []
    return Content(rows[0].sha256, rows[0].md5, rows[0].size) if rows else None


@dataclass(frozen=True, slots=True)
class FilesArrived:
    """Event: files that these jobs waited for are registered. Published in the transaction of `register`."""

    job_ids: list[str]


def register(tx: Tx, context: AppContext, actor: Actor, by_path: dict[str, Content]) -> list[str]:
    """Register claimed contents under these paths of the user, and end the waiting of jobs for them.

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
        for path, content in by_path.items()
    ]
    new = insert(tx, registrations)
    changes = {c: new.excluded[c] for c in ("sha256", "md5", "size", "registered_ms", "used_ms")}
    tx.conn.execute(new.on_conflict_do_update(index_elements=["user_id", "path"], set_=changes), rows)
    job_ids = _satisfy(tx, actor, by_path)
    if job_ids:
        tx.publish(FilesArrived(job_ids))
    return job_ids


def _satisfy(tx: Tx, actor: Actor, by_path: dict[str, Content]) -> list[str]:
    """Remove the missing paths of the user's jobs that arrived, by path or pinned content; the jobs' ids."""
    waiting: dict[str, dict[str, tuple[str | None, str | None]]] = {}
    for column, values in (
        (missing_paths.c.path, set(by_path)),
        (missing_paths.c.sha256, {c.sha256 for c in by_path.values()}),
        (missing_paths.c.md5, {c.md5 for c in by_path.values()}),
    ):
        query = scoped(sa.select(missing_paths), missing_paths, actor.account_id).where(
            missing_paths.c.user_id == actor.user_id, column.in_(listed(tx, sorted(values)))
        )
        for row in tx.conn.execute(query):
            waiting.setdefault(row.job_id, {})[row.path] = (row.md5, row.sha256)
    satisfied = []
    for job_id, lacking in sorted(waiting.items()):
        pins = {path: pin for path, pin in lacking.items() if pin != (None, None)}
        missing = snapshot(tx, actor.account_id, actor.user_id, list(lacking), pins).missing
        arrived = sorted(set(lacking) - set(missing))
        change = scoped(sa.delete(missing_paths), missing_paths, actor.account_id).where(
            missing_paths.c.job_id == job_id, missing_paths.c.path.in_(listed(tx, arrived))
        )
        tx.conn.execute(change)
        if arrived:
            satisfied.append(job_id)
    return satisfied


def remaining_quota(tx: Tx, context: AppContext, account_id: str) -> int | None:
    """Bytes that the account may still store; None without a quota. Locks the account's id."""
    own = tx.conn.execute(sa.select(accounts.c.quota_bytes).where(accounts.c.id == account_id)).scalar()
    quota = own if own is not None else context.settings.account_quota_bytes
    if quota is None:
        return None
    lock(tx, account_id)
    used = scoped(sa.select(sa.func.coalesce(sa.func.sum(contents.c.size), 0)), contents, account_id)
    return max(0, quota - int(tx.conn.execute(used.where(contents.c.condemned_ms.is_(None))).scalar_one()))


def _row(tx: Tx, account_id: str, sha256: str) -> ContentRow | None:
    """The account's row for a SHA-256, condemned or not; None if there is none."""
    query = scoped(sa.select(contents), contents, account_id).where(contents.c.sha256 == sha256)
    return tx.row_or_none(ContentRow, query)


def next_generation(tx: Tx, account_id: str, sha256: str) -> int | None:
    """Generation under which to store bytes of this SHA-256; None if they are stored.

    Random, so that no object's key is used twice: a late removal cannot hit a new object.
    """
    row = _row(tx, account_id, sha256)
    if row is not None and row.condemned_ms is None:
        return None
    return 1 + secrets.randbelow(MAX_GENERATION)


def store_content(
    tx: Tx, context: AppContext, actor: Actor, path: str, content: Content, generation: int | None
) -> dict[str, object]:
    """Make durable bytes under `generation` (None: they were stored before) content, and register the path.

    Returns the fields of `Uploaded`; with `deduplicated` the bytes were stored before, and the new object is
    not needed. Raises TooLarge over the quota, and ContentMoved: the object is not needed then either.
    """
    claim(tx, actor.account_id, contents.c.sha256, [content.sha256])
    row = _row(tx, actor.account_id, content.sha256)
    duplicate = row is not None and row.condemned_ms is None
    if not duplicate:
        if generation is None:
            raise ContentMoved
        remaining = remaining_quota(tx, context, actor.account_id)
        if remaining is not None and content.size > remaining:
            raise over_quota(remaining)
        _write_content(tx, actor.account_id, content, generation, row)
    register(tx, context, actor, {path: content})
    return {
        "path": path,
        "size": content.size,
        "md5": content.md5,
        "sha256": content.sha256,
        "deduplicated": duplicate,
    }


def _write_content(
    tx: Tx, account_id: str, content: Content, generation: int, condemned: ContentRow | None
) -> None:
    """Insert the row, or give a condemned one the new generation. Raises ContentMoved."""
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
        update = scoped(sa.update(contents), contents, account_id).where(
            contents.c.sha256 == content.sha256, contents.c.generation == condemned.generation
        )
        change = update.values(values)
    if not changed(tx, change):
        raise ContentMoved


def over_quota(remaining: int) -> TooLarge:
    """Error for a file that is larger than the `remaining` bytes of the quota."""
    return TooLarge(f"The account may store {remaining} more bytes; the file is larger.")
