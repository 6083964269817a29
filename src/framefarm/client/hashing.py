"""MD5 and SHA-256 of files, computed in parallel and cached while a file's size and time stay the same."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from framefarm.client.errors import LocalProblem

CHUNK_BYTES = 4 << 20
TWO_THREADS_FROM_BYTES = 8 << 20
"""Files of at least this size are hashed with MD5 and SHA-256 in two threads."""
SETTLED_NS = 2_000_000_000
"""A file modified less than this before it was hashed is not cached: it could change again within the file
system's clock tick, with the same size and time."""


@dataclass(frozen=True)
class HashedFile:
    """A file with its size (bytes) and hashes (lower-case hex digits). `path` is absolute."""

    path: str
    size: int
    md5: str
    sha256: str


class HashCache:
    """(path, size, modification time) → hashes, in one SQLite file. It may be deleted at any time."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the cache at `path`, by default in the user's cache folder; in memory if that fails."""
        self._lock = threading.Lock()
        try:
            file = path or user_cache_path("framefarm") / "hashes.sqlite"
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open(str(file))
        except (OSError, sqlite3.Error):
            self._db = self._open(":memory:")

    @staticmethod
    def _open(name: str) -> sqlite3.Connection:
        db = sqlite3.connect(name, timeout=5.0, check_same_thread=False, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")
        db.execute(
            "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER NOT NULL,"
            " mtime_ns INTEGER NOT NULL, md5 TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID"
        )
        return db

    def get(self, path: str, size: int, mtime_ns: int) -> HashedFile | None:
        """The file's cached hashes, if its size (bytes) and modification time are the same; else None."""
        query = "SELECT md5, sha256 FROM hashes WHERE path = ? AND size = ? AND mtime_ns = ?"
        with self._lock:
            row = self._db.execute(query, (path, size, mtime_ns)).fetchone()
        return None if row is None else HashedFile(path, size, row[0], row[1])

    def put(self, hashed: HashedFile, mtime_ns: int) -> None:
        """Store a file's hashes; a cache that cannot be written is ignored."""
        row = (hashed.path, hashed.size, mtime_ns, hashed.md5, hashed.sha256)
        with self._lock:
            try:
                self._db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?)", row)
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

    Raises LocalProblem for a file that cannot be read, or that changes while it is read.
    """
    with ThreadPoolExecutor(workers or min(8, (os.cpu_count() or 2) + 1)) as pool:
        return list(pool.map(lambda path: hash_file(path, cache=cache, on_bytes=on_bytes), paths))


def hash_file(
    path: Path, *, cache: HashCache | None = None, on_bytes: Callable[[int], None] = lambda count: None
) -> HashedFile:
    """Hash one file, as `hash_files` does."""
    # hashlib releases the interpreter lock, so a large file's two hashes are computed in parallel.
    name = str(path)
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            if cache and (known := cache.get(name, before.st_size, before.st_mtime_ns)):
                on_bytes(before.st_size)
                return known
            md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
            if before.st_size >= TWO_THREADS_FROM_BYTES:
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
            after = os.fstat(file.fileno())
    except OSError as error:
        raise LocalProblem(f"{name} cannot be read: {error.strerror or error}.") from error
    if (read_bytes, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise LocalProblem(f"{name} changed while it was read. Wait until it is saved, then try again.")
    hashed = HashedFile(name, before.st_size, md5.hexdigest(), sha256.hexdigest())
    if cache and time.time_ns() - before.st_mtime_ns > SETTLED_NS:
        cache.put(hashed, before.st_mtime_ns)
    return hashed
