"""MD5 and SHA-256 of files, computed in parallel and cached while the file system says that a file is the
same."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from framefarm.client.errors import LocalProblem

CHUNK_BYTES = 4 << 20
TWO_THREADS_FROM_BYTES = 8 << 20
"""Files of at least this size are hashed with MD5 and SHA-256 in two threads."""
SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was read is not cached: it could change again within the file
system's clock tick, and look the same. FAT counts in steps of 2 seconds."""
PAUSES_SECONDS = (0.2, 0.5, 1.0)
"""Before a file that changed while it was read is read again; after the last one it is refused."""


@dataclass(frozen=True)
class HashedFile:
    """A file with its size (bytes) and hashes (lower-case hex digits). `path` is absolute."""

    path: str
    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Identity:
    """The marks of a file in its file system. Two states of a file with equal identities have equal bytes.

    Every change of bytes, name or times sets `changed_ns` (ctime), and no program can set it back. On Windows
    it is the time of creation."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(
            _signed(status.st_dev),
            _signed(status.st_ino),
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def is_settled(self, now_ns: int) -> bool:
        """Whether a further change after `now_ns` would show."""
        return now_ns - max(self.modified_ns, self.changed_ns) > SETTLED_NS


def _signed(number: int) -> int:
    """The number as SQLite stores it, in 64 bits with a sign; Windows has larger ones."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


class HashCache:
    """(path, identity) → hashes, in one SQLite file. It may be deleted at any time."""

    NAME = "hashes-2.sqlite"
    OLD_NAMES = ("hashes.sqlite",)
    """Caches of earlier releases, which knew a file by its size and time of modification alone."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the cache at `path`, by default in the user's cache folder; in memory if that fails."""
        self._lock = threading.Lock()
        try:
            file = path or user_cache_path("framefarm") / self.NAME
            file.parent.mkdir(parents=True, exist_ok=True)
            for name in self.OLD_NAMES:
                for end in ("", "-wal", "-shm"):
                    file.with_name(name + end).unlink(missing_ok=True)
            self._db = self._open(str(file))
        except (OSError, sqlite3.Error):
            self._db = self._open(":memory:")

    @staticmethod
    def _open(name: str) -> sqlite3.Connection:
        db = sqlite3.connect(name, timeout=5.0, check_same_thread=False, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")
        db.execute(
            "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, device INTEGER NOT NULL,"
            " inode INTEGER NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,"
            " changed_ns INTEGER NOT NULL, md5 TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID"
        )
        return db

    def get(self, path: str, identity: Identity) -> HashedFile | None:
        """The file's cached hashes if it is still the same file; else None."""
        query = "SELECT device, inode, size, modified_ns, changed_ns, md5, sha256 FROM hashes WHERE path = ?"
        with self._lock:
            try:
                row = self._db.execute(query, (path,)).fetchone()
            except sqlite3.Error:
                return None  # a damaged cache: the file is hashed
        if row is None or Identity(*row[:5]) != identity:
            return None
        return HashedFile(path, identity.size, row[5], row[6])

    def put(self, hashed: HashedFile, identity: Identity) -> None:
        """Store a file's hashes; a cache that cannot be written is ignored."""
        row = (hashed.path, *astuple(identity), hashed.md5, hashed.sha256)
        with self._lock:
            try:
                self._db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.Error:
                return  # a full or read-only disk: the file is hashed again next time

    def close(self) -> None:
        """Close the cache's database."""
        self._db.close()


def hash_files(
    paths: Iterable[Path],
    *,
    cache: HashCache | None = None,
    workers: int | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> list[HashedFile]:
    """Hash files; the results are in the order of `paths`.

    Args:
        workers: number of threads, by default one more than there are processors, at most 8.
        on_bytes: called from several threads with each number of bytes done.

    A file that changes while it is read is read again. Raises LocalProblem for a file that cannot be read, or
    that changes each time.
    """
    with ThreadPoolExecutor(workers or min(8, (os.cpu_count() or 2) + 1)) as pool:
        return list(pool.map(lambda path: hash_file(path, cache=cache, on_bytes=on_bytes), paths))


def hash_file(
    path: Path, *, cache: HashCache | None = None, on_bytes: Callable[[int], None] = lambda count: None
) -> HashedFile:
    """Hash one file, as `hash_files` does."""
    for pause in (*PAUSES_SECONDS, None):
        read_bytes = 0

        def count(number: int) -> None:
            nonlocal read_bytes
            read_bytes += number
            on_bytes(number)

        try:
            hashed = _hash_once(path, cache, count)
        except OSError as error:
            raise LocalProblem(f"{path} cannot be read: {error.strerror or error}.") from error
        if hashed is not None:
            return hashed
        on_bytes(-read_bytes)
        if pause is not None:
            time.sleep(pause)
    raise LocalProblem(f"{path} changed while it was read. Wait until it is saved, then try again.")


def _hash_once(path: Path, cache: HashCache | None, on_bytes: Callable[[int], None]) -> HashedFile | None:
    """The file's hashes; None if it changed meanwhile, or another file took its place. Raises OSError."""
    # hashlib releases the interpreter lock, so a large file's two hashes are computed in parallel.
    name = str(path)
    with path.open("rb") as file:
        before = Identity.of(os.fstat(file.fileno()))
        if cache and (known := cache.get(name, before)):
            on_bytes(before.size)
            return known
        began_ns = time.time_ns()
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        if before.size >= TWO_THREADS_FROM_BYTES:
            with ThreadPoolExecutor(1) as md5_thread:
                while chunk := file.read(CHUNK_BYTES):
                    md5_done = md5_thread.submit(md5.update, chunk)
                    sha256.update(chunk)
                    md5_done.result()
                    on_bytes(len(chunk))
        else:
            while chunk := file.read(CHUNK_BYTES):
                md5.update(chunk)
                sha256.update(chunk)
                on_bytes(len(chunk))
        read_bytes = file.tell()
        after = Identity.of(os.fstat(file.fileno()))
    if not before == after == Identity.of(os.stat(path)) or read_bytes != before.size:
        return None
    hashed = HashedFile(name, before.size, md5.hexdigest(), sha256.hexdigest())
    if cache and before.is_settled(began_ns):
        cache.put(hashed, before)
    return hashed
