"""Output destinations: `gs://`, `s3://` and `file://` URLs that the operator gave an account, and the
account's own output area. A bucket is mapped to a directory of this machine (`FRAMEFARM_BUCKETS`).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from framefarm.core.errors import Conflict, InvalidInput, NotFound
from framefarm.server.catalog.tables import output_places
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.rows import DestinationRow
from framefarm.server.tenancy import farmwide, scoped

if TYPE_CHECKING:
    from framefarm.server.context import AppContext

FIRST_DESTINATION = "gs://renders"
"""Destination of the first account; always mapped to a directory."""
_BUCKET = re.compile(r"(gs|s3)://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?\Z", re.DOTALL)
_BAD = re.compile("[\x00-\x1f\x7f\ud800-\udfff?#\\\\]")
FIELD = "output_path"
"""The submission's field that names a destination."""


@dataclass(frozen=True, slots=True)
class OutputDestination:
    """A folder for output: its normalised URL, and its path on this machine, as `parts` below `root`."""

    url: str
    root: Path
    parts: tuple[str, ...]


def buckets(context: AppContext) -> dict[str, Path]:
    """Directories of the mapped buckets, by URL (`gs://renders`). Raises ValueError for a bad setting."""
    mapped: dict[str, Path] = {}
    for item in filter(None, (i.strip() for i in context.settings.buckets.split(","))):
        name, _, folder = item.partition("=")
        if not _BUCKET.match(name) or not folder.startswith("/"):
            raise ValueError(f"FRAMEFARM_BUCKETS: {item!r} is not BUCKET=/DIR, as gs://renders=/srv/renders")
        mapped[name.rstrip("/")] = Path(folder)
    mapped.setdefault(FIRST_DESTINATION, context.data / "buckets" / "renders")
    roots = sorted(str(p.resolve()) + "/" for p in mapped.values())
    for first, second in pairwise(roots):
        if second.startswith(first):
            raise ValueError(f"FRAMEFARM_BUCKETS: {first} and {second} overlap")
    return mapped


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(p for p in text.split("/") if p)
    if any(p in {".", ".."} or len(p.encode()) > 255 for p in parts):
        raise ValueError("must not hold '.' or '..', nor parts longer than 255 bytes")
    return parts


def normalise(url: str) -> str:
    """A destination's URL without trailing or double slashes. Raises ValueError."""
    if _BAD.search(url):
        raise ValueError("must not hold control characters, '?', '#' or backslashes")
    if bucket := _BUCKET.match(url):
        return "/".join([f"{bucket[1]}://{bucket[2]}", *_parts(bucket[3] or "")])
    if url.startswith("file:///"):
        return "file:///" + "/".join(_parts(url[8:]))
    raise ValueError("must be gs://bucket/prefix, s3://bucket/prefix, file:///dir or a bare a/b/c")


def resolve(tx: Tx, context: AppContext, account_id: str, output_path: str) -> OutputDestination:
    """The destination that a job's `output_path` names. Raises InvalidInput, which lists the allowed ones."""
    allowed = list_destinations(tx, account_id)
    try:
        if "://" not in output_path and not output_path.startswith(("/", "file:")):
            if _BAD.search(output_path) or ":" in output_path:
                raise ValueError("must not hold control characters, ':', '?', '#' or backslashes")
            if not _parts(output_path):
                raise ValueError("is not a path below your output area, as a/b/c")
            return destination_of(context, f"area:///{account_id}/" + "/".join(_parts(output_path)))
        url = normalise(output_path)
    except ValueError as error:
        raise InvalidInput.of(FIELD, f"{error}{_or_allowed(allowed)}", output_path[:200]) from None
    if not any(url == above or url.startswith(above.rstrip("/") + "/") for above in allowed):
        raise InvalidInput.of(
            FIELD, f"is not an output destination of your account{_or_allowed(allowed)}", output_path[:200]
        )
    try:
        return destination_of(context, url)
    except ValueError as error:
        raise InvalidInput.of(FIELD, str(error), output_path[:200]) from None


def _or_allowed(allowed: Sequence[str]) -> str:
    return f"; allowed are: {', '.join([*allowed, 'a bare path like a/b/c'])}"


def destination_of(context: AppContext, url: str) -> OutputDestination:
    """The destination behind a stored `output_url`. Raises ValueError for a bucket that is not mapped."""
    if url.startswith("area:///"):
        return OutputDestination(url, context.data / "outputs", tuple(url[8:].split("/")))
    if url.startswith("file:///"):
        return OutputDestination(url, Path("/"), tuple(url[8:].split("/")))
    match = _BUCKET.match(url)
    assert match is not None
    bucket = f"{match[1]}://{match[2]}"
    root = buckets(context).get(bucket)
    if root is None:
        raise ValueError(f"{bucket} has no folder on this farm: the operator names one in FRAMEFARM_BUCKETS")
    return OutputDestination(url, root, _parts(match[3] or ""))


def open_beneath(root: int, parts: Sequence[str], *, create: bool) -> int:
    """Open the folder `parts` below the descriptor `root`, following no links. Raises OSError.

    The caller closes the returned descriptor.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.dup(root)
    os.set_inheritable(folder, False)
    try:
        for part in parts:
            try:
                below = os.open(part, flags, dir_fd=folder)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
                os.fsync(folder)
                below = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder


@contextlib.contextmanager
def open_destination(context: AppContext, url: str, *, create: bool = True) -> Iterator[int]:
    """A descriptor of a destination's folder; `create` makes a missing one. Raises OSError, ValueError."""
    destination = destination_of(context, url)
    if create and destination.root != Path("/"):
        destination.root.mkdir(parents=True, exist_ok=True)
    root = os.open(destination.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = open_beneath(root, destination.parts, create=create)
    finally:
        os.close(root)
    try:
        yield folder
    finally:
        os.close(folder)


def open_output(context: AppContext, url: str, path: str) -> int:
    """Open a published file, following no links. The caller closes the descriptor. Raises OSError."""
    *parents, name = path.split("/")
    with open_destination(context, url, create=False) as root:
        folder = open_beneath(root, parents, create=False)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(path)
    return fd


def check_writable(destination: OutputDestination) -> None:
    """Check before the render that files can be written. Raises InvalidInput.

    A file is created and removed in the deepest folder of the destination that exists.
    """
    probe = f".{new_id('probe')}"
    try:
        if destination.root != Path("/"):
            destination.root.mkdir(parents=True, exist_ok=True)
        folder = os.open(destination.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in destination.parts:
                try:
                    below = open_beneath(folder, [part], create=False)
                except FileNotFoundError:
                    break
                os.close(folder)
                folder = below
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(probe, flags, 0o644, dir_fd=folder))
            os.unlink(probe, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput.of(
            FIELD, f"must be an output destination that can be written: {reason}", destination.url
        ) from None


# ------------------------------------------------------------------------ operator's side


def list_destinations(tx: Tx, account_id: str) -> list[str]:
    """URLs of the destinations that the operator gave the account."""
    query = scoped(sa.select(output_places.c.url), output_places, account_id)
    return list(tx.conn.execute(query.order_by(output_places.c.url)).scalars())


def grant(tx: Tx, account_id: str, url: str) -> str:
    """Give an account a destination; returns its normalised URL.

    Raises InvalidInput, and Conflict where it overlaps one of another account.
    """
    try:
        url = normalise(url)
    except ValueError as error:
        raise InvalidInput.of("url", str(error), url[:200]) from None
    rows = tx.rows(DestinationRow, farmwide(sa.select(output_places)))
    for row in rows:
        new, known = (u.rstrip("/") + "/" for u in (url, row.url))
        if row.account_id != account_id and (known.startswith(new) or new.startswith(known)):
            raise Conflict(f"{url} overlaps {row.url}, which another account has.")
    if not any(r.url == url and r.account_id == account_id for r in rows):
        values = {"id": new_id("plc"), "account_id": account_id, "url": url, "created_ms": tx.now_ms}
        tx.conn.execute(sa.insert(output_places).values(values))
    return url


def revoke(tx: Tx, account_id: str, url: str) -> None:
    """Take a destination from an account; jobs submitted before keep it. Raises NotFound."""
    row = scoped(sa.delete(output_places), output_places, account_id).where(output_places.c.url == url)
    if not tx.conn.execute(row).rowcount:
        raise NotFound(f"The account has no output destination {url}.")


def grant_default(tx: Tx, context: AppContext, account_id: str) -> None:
    """Give the first account `gs://renders`, with its directory."""
    buckets(context)[FIRST_DESTINATION].mkdir(parents=True, exist_ok=True)
    grant(tx, account_id, FIRST_DESTINATION)
