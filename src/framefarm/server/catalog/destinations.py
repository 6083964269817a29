"""Where frames go: `gs://`, `s3://` and `file://` places that the operator gave an account, and the account's
own output area. A bucket is a directory here (`FRAMEFARM_BUCKETS`); cloud stores come through the same seam.
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
from framefarm.server.tenancy import farmwide, scoped

if TYPE_CHECKING:
    from framefarm.server.context import AppContext

FIRST_PLACE = "gs://renders"
_BUCKET = re.compile(r"(gs|s3)://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?\Z", re.DOTALL)
_BAD = re.compile("[\x00-\x1f\x7f\ud800-\udfff?#\\\\]")
FIELD = "output_path"


@dataclass(frozen=True, slots=True)
class OutputDestination:
    """A folder for output. `url` is its normalised text; `root` and `parts` say where it is here."""

    url: str
    root: Path
    parts: tuple[str, ...]


def buckets(context: AppContext) -> dict[str, Path]:
    """The mapped buckets: `gs://renders` → directory."""
    mapped: dict[str, Path] = {}
    for item in filter(None, (i.strip() for i in context.settings.buckets.split(","))):
        name, _, folder = item.partition("=")
        if not _BUCKET.match(name) or not folder.startswith("/"):
            raise ValueError(f"FRAMEFARM_BUCKETS: {item!r} is not BUCKET=/DIR, as gs://renders=/srv/renders")
        mapped[name.rstrip("/")] = Path(folder)
    mapped.setdefault(FIRST_PLACE, context.data / "buckets" / "renders")
    roots = sorted(str(p.resolve()) + "/" for p in mapped.values())
    for one, other in pairwise(roots):
        if other.startswith(one):
            raise ValueError(f"FRAMEFARM_BUCKETS: {one} and {other} overlap")
    return mapped


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(p for p in text.split("/") if p)
    if any(p in {".", ".."} or len(p.encode()) > 255 for p in parts):
        raise ValueError("must not hold '.' or '..', nor parts longer than 255 bytes")
    return parts


def normal(url: str) -> str:
    """A place's text without trailing or double slashes. Raises ValueError."""
    if _BAD.search(url):
        raise ValueError("must not hold control characters, '?', '#' or backslashes")
    if found := _BUCKET.match(url):
        return "/".join([f"{found[1]}://{found[2]}", *_parts(found[3] or "")])
    if url.startswith("file:///"):
        return "file:///" + "/".join(_parts(url[8:]))
    raise ValueError("must be gs://bucket/prefix, s3://bucket/prefix, file:///dir or a bare a/b/c")


def resolve(tx: Tx, context: AppContext, account_id: str, output_path: str) -> OutputDestination:
    """The place that a job's `output_path` names. Raises InvalidInput that lists the allowed ones."""
    given = list_destinations(tx, account_id)
    try:
        if "://" not in output_path and not output_path.startswith(("/", "file:")):
            if _BAD.search(output_path) or not _parts(output_path) or ":" in output_path:
                raise ValueError("is not a path below your output area, as a/b/c")
            return destination_of(context, f"area:///{account_id}/" + "/".join(_parts(output_path)))
        url = normal(output_path)
    except ValueError as error:
        raise InvalidInput.of(FIELD, f"{error}{_allowed(given)}", output_path[:200]) from None
    if not any(url == place or url.startswith(place.rstrip("/") + "/") for place in given):
        raise InvalidInput.of(
            FIELD, f"is not a place given to your account{_allowed(given)}", output_path[:200]
        )
    try:
        return destination_of(context, url)
    except ValueError as error:
        raise InvalidInput.of(FIELD, str(error), output_path[:200]) from None


def _allowed(given: Sequence[str]) -> str:
    return f"; allowed are: {', '.join([*given, 'a bare path like a/b/c'])}"


def destination_of(context: AppContext, url: str) -> OutputDestination:
    """The place behind a stored `output_url`. Raises ValueError where a bucket is not mapped."""
    if url.startswith("area:///"):
        return OutputDestination(url, context.data / "outputs", tuple(url[8:].split("/")))
    if url.startswith("file:///"):
        return OutputDestination(url, Path("/"), tuple(url[8:].split("/")))
    found = _BUCKET.match(url)
    assert found is not None
    root = buckets(context).get(f"{found[1]}://{found[2]}")
    if root is None:
        bucket = f"{found[1]}://{found[2]}"
        raise ValueError(f"{bucket} has no folder on this farm: its operator names one in FRAMEFARM_BUCKETS")
    return OutputDestination(url, root, _parts(found[3] or ""))


def open_beneath(root: int, parts: Sequence[str], *, create: bool) -> int:
    """A descriptor of the folder `parts` below the descriptor `root`, following no links. Close it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.dup(root)
    os.set_inheritable(here, False)
    try:
        for part in parts:
            try:
                below = os.open(part, flags, dir_fd=here)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                os.fsync(here)
                below = os.open(part, flags, dir_fd=here)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


@contextlib.contextmanager
def open_destination(context: AppContext, url: str, *, create: bool = True) -> Iterator[int]:
    """A descriptor of a place's folder, made where it is missing."""
    place = destination_of(context, url)
    if create and place.root != Path("/"):
        place.root.mkdir(parents=True, exist_ok=True)
    root = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = open_beneath(root, place.parts, create=create)
    finally:
        os.close(root)
    try:
        yield folder
    finally:
        os.close(folder)


def open_output(context: AppContext, url: str, path: str) -> int:
    """A descriptor of a published file, following no links. Raises OSError."""
    *parents, name = path.split("/")
    with open_destination(context, url, create=False) as place:
        folder = open_beneath(place, parents, create=False)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(path)
    return fd


def check_writable(context: AppContext, place: OutputDestination) -> None:
    """Before the render, not after: a file is tried in the deepest of its folders that is there already.

    Leaves nothing behind. Raises InvalidInput.
    """
    probe = f".{new_id('probe')}"
    try:
        if place.root != Path("/"):
            place.root.mkdir(parents=True, exist_ok=True)
        here = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in place.parts:
                try:
                    below = open_beneath(here, [part], create=False)
                except FileNotFoundError:
                    break
                os.close(here)
                here = below
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(probe, flags, 0o644, dir_fd=here))
            os.unlink(probe, dir_fd=here)
        finally:
            os.close(here)
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidInput.of(FIELD, f"must be a place that can be written: {why}", place.url) from None


# ------------------------------------------------------------------------ operator's side


def list_destinations(tx: Tx, account_id: str) -> list[str]:
    """URLs given to the account."""
    query = scoped(sa.select(output_places.c.url), output_places, account_id)
    return list(tx.conn.execute(query.order_by(output_places.c.url)).scalars())


def grant(tx: Tx, account_id: str, url: str) -> str:
    """Give an account a place. Raises InvalidInput, Conflict (another account has it)."""
    try:
        url = normal(url)
    except ValueError as error:
        raise InvalidInput.of("url", str(error), url[:200]) from None
    every = farmwide(sa.select(output_places.c.url, output_places.c.account_id))
    rows = tx.conn.execute(every).all()
    for row in rows:
        mine, theirs = (u.rstrip("/") + "/" for u in (url, row.url))
        nested = theirs.startswith(mine) or mine.startswith(theirs)
        if nested and row.account_id != account_id:
            raise Conflict(f"{url} overlaps {row.url}, which another account has.")
    if not any(r.url == url and r.account_id == account_id for r in rows):
        values = {"id": new_id("plc"), "account_id": account_id, "url": url, "created_ms": tx.now_ms}
        tx.conn.execute(sa.insert(output_places).values(values))
    return url


def revoke(tx: Tx, account_id: str, url: str) -> None:
    """Take a place back; jobs that run there end. Raises NotFound."""
    mine = scoped(sa.delete(output_places), output_places, account_id).where(output_places.c.url == url)
    if not tx.conn.execute(mine).rowcount:
        raise NotFound(f"The account has no place {url}.")


def grant_default(tx: Tx, context: AppContext, account_id: str) -> None:
    """`gs://renders` for the first account, so that a client of the reference works whole."""
    buckets(context)[FIRST_PLACE].mkdir(parents=True, exist_ok=True)
    grant(tx, account_id, FIRST_PLACE)
