"""What accounts have uploaded: content by SHA-256, MD5 as an index, paths registered per user.

Everything here speaks of one account's content alone: a hash gives nobody another account's bytes, nor tells
that they exist.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import FieldError, InvalidInput, TooLarge
from framefarm.core.paths import normalise
from framefarm.protocol.api_files import FileCheck
from framefarm.server.accounts.tables import accounts
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.farm import Farm
from framefarm.server.files.manifests import md5_hex
from framefarm.server.files.tables import contents, missing_paths, registrations
from framefarm.server.jobs import scenes
from framefarm.server.tenancy import scoped


def check(tx: Tx, farm: Farm, actor: Actor, files: list[FileCheck]) -> list[dict[str, bool]]:
    """For each file: is its content here, and was it registered under its path. In the given order."""
    errors: list[FieldError] = []
    wanted: list[tuple[str, str | None, str | None, int | None]] = []
    for i, file in enumerate(files):
        at = f"files[{i}]." if len(files) > 1 else ""
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
        wanted.append((md5 or "", sha, path, file.size))
    if errors:
        raise InvalidInput(errors)
    if any(path is not None for _, _, path, _ in wanted):
        actor.must_write()
    found: list[Any] = []
    for md5, sha, _, size in wanted:
        found.append(_content(tx, actor.account_id, md5, sha, size))
    fresh = [(p, c) for (_, _, p, _), c in zip(wanted, found, strict=True) if p is not None and c is not None]
    if fresh:
        register(tx, farm, actor, fresh)
    return [
        {"exists": c is not None, "registered": c is not None and path is not None}
        for (_, _, path, _), c in zip(wanted, found, strict=True)
    ]


def _content(tx: Tx, account_id: str, md5: str, sha: str | None, size: int | None) -> Any:
    """The account's only content of that MD5; None if there is none, or several and no SHA-256 decides."""
    query = scoped(sa.select(contents), contents, account_id).where(
        contents.c.md5 == md5, contents.c.condemned_ms.is_(None)
    )
    if sha is not None:
        query = query.where(contents.c.sha256 == sha)
    rows = tx.conn.execute(query.limit(2)).mappings().all()
    if len(rows) != 1 or (size is not None and rows[0]["size"] != size):
        return None
    return rows[0]


def register(tx: Tx, farm: Farm, actor: Actor, fresh: list[tuple[str, Any]]) -> None:
    """These paths now have these contents for this user; jobs that waited for them go on."""
    paths = sorted({p for p, _ in fresh})
    for start in range(0, len(paths), 500):
        old = scoped(sa.delete(registrations), registrations, actor.account_id).where(
            registrations.c.user_id == actor.user_id, registrations.c.path.in_(paths[start : start + 500])
        )
        tx.conn.execute(old)
    rows = {
        path: {
            "account_id": actor.account_id,
            "user_id": actor.user_id,
            "path": path,
            "sha256": content["sha256"],
            "md5": content["md5"],
            "size": content["size"],
            "registered_ms": tx.now_ms,
        }
        for path, content in fresh
    }
    tx.conn.execute(sa.insert(registrations), list(rows.values()))
    for sha in sorted({r["sha256"] for r in rows.values()}):
        claim = scoped(sa.update(contents), contents, actor.account_id).where(contents.c.sha256 == sha)
        tx.conn.execute(claim.values(last_claimed_ms=tx.now_ms))
    _satisfy(tx, farm, actor, rows)


def _satisfy(tx: Tx, farm: Farm, actor: Actor, rows: dict[str, dict[str, Any]]) -> None:
    """Missing paths of the user's waiting jobs that are there now: by path, or by pinned content."""
    waiting = scoped(sa.select(missing_paths), missing_paths, actor.account_id).where(
        missing_paths.c.user_id == actor.user_id
    )
    shas = {r["sha256"] for r in rows.values()}
    md5s = {r["md5"] for r in rows.values()}
    done: list[tuple[str, str]] = []
    for row in tx.conn.execute(waiting).mappings().all():
        if row["sha256"] is not None:
            here = row["sha256"] in shas
        elif row["md5"] is not None:
            here = row["md5"] in md5s
        else:
            here = row["path"] in rows
        if here:
            done.append((row["job_id"], row["path"]))
    for job_id, path in done:
        gone = scoped(sa.delete(missing_paths), missing_paths, actor.account_id).where(
            missing_paths.c.job_id == job_id, missing_paths.c.path == path
        )
        tx.conn.execute(gone)
    if done:
        scenes.complete(tx, farm, [job for job, _ in done])


def quota_left(tx: Tx, farm: Farm, account_id: str) -> int | None:
    """Bytes the account may still store; None: no quota."""
    own = tx.conn.execute(sa.select(accounts.c.quota_bytes).where(accounts.c.id == account_id)).scalar()
    quota = own if own is not None else farm.settings.account_quota_bytes
    if quota is None:
        return None
    used = scoped(sa.select(sa.func.coalesce(sa.func.sum(contents.c.size), 0)), contents, account_id)
    return max(0, int(quota) - int(tx.conn.execute(used).scalar_one()))


def known(tx: Tx, account_id: str, sha256: str) -> Any:
    """The account's content, or None. A condemned one does not exist."""
    query = scoped(sa.select(contents), contents, account_id).where(contents.c.sha256 == sha256)
    return tx.conn.execute(query).mappings().one_or_none()


def next_generation(tx: Tx, account_id: str, sha256: str) -> int | None:
    """Where to store bytes of that SHA-256; None if they are here already."""
    row = known(tx, account_id, sha256)
    if row is None:
        return 1
    generation: int = row["generation"]
    return generation + 1 if row["condemned_ms"] is not None else None


def stored(
    tx: Tx, farm: Farm, actor: Actor, *, path: str, sha256: str, md5: str, size: int, generation: int
) -> bool:
    """Bytes are durable under `generation`: make them content and register the path. True if they were
    known already, and the fresh copy may go."""
    row = known(tx, actor.account_id, sha256)
    duplicate = row is not None and row["condemned_ms"] is None
    if not duplicate:
        left = quota_left(tx, farm, actor.account_id)
        if left is not None and size > left:
            raise TooLarge(f"The account's quota has {left} bytes left; the file has {size}.")
        values = {
            "generation": generation,
            "md5": md5,
            "size": size,
            "last_claimed_ms": tx.now_ms,
            "condemned_ms": None,
        }
        if row is None:
            key = {"account_id": actor.account_id, "sha256": sha256, "created_ms": tx.now_ms}
            tx.conn.execute(sa.insert(contents).values(**key, **values))
        else:
            mine = scoped(sa.update(contents), contents, actor.account_id).where(contents.c.sha256 == sha256)
            tx.conn.execute(mine.values(values))
    register(tx, farm, actor, [(path, {"sha256": sha256, "md5": md5, "size": size})])
    return duplicate
