"""Record of the files that `framefarm download` wrote, so that it loses no file of the user's own."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from pathlib import Path

from platformdirs import user_state_path

CHUNK_BYTES = 1 << 20


class Downloaded:
    """Absolute path of a file → SHA-256 of the bytes written there, in one SQLite file.

    If it is deleted, downloads keep aside the files that they wrote before."""

    NAME = "downloaded.sqlite"

    def __init__(self, path: Path | None = None) -> None:
        """Open the record at `path`, by default in the user's folder for state; in memory if that fails."""
        self._lock = threading.Lock()
        try:
            file = path or user_state_path("framefarm") / self.NAME
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open(str(file))
        except (OSError, sqlite3.Error):
            self._db = self._open(":memory:")

    @staticmethod
    def _open(name: str) -> sqlite3.Connection:
        db = sqlite3.connect(name, timeout=5.0, check_same_thread=False, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID"
        )
        return db

    def may_replace(self, path: Path) -> bool:
        """Whether nothing is at `path`, or a file that a download wrote and that nobody changed since."""
        if not os.path.lexists(path):
            return True
        if path.is_symlink() or not path.is_file():
            return path.is_dir() and not path.is_symlink()  # replacing it fails
        with self._lock:
            try:
                row = self._db.execute("SELECT sha256 FROM files WHERE path = ?", (_key(path),)).fetchone()
            except sqlite3.Error:
                return False
        return row is not None and sha256_of(path) == row[0]

    def keep_aside(self, path: Path) -> str | None:
        """Give a file that is not the downloads' own another name beside it, `NAME.before-1`; returns that
        name, None if there is no such file. A link is such a file, too. Raises OSError."""
        if self.may_replace(path):
            return None
        number = 1
        while os.path.lexists(kept := path.with_name(f"{path.name}.before-{number}")):
            number += 1
        path.rename(kept)
        return kept.name

    def note(self, path: Path, sha256: str) -> None:
        """Record that these bytes were written to `path`; a record that cannot be written is ignored."""
        with self._lock:
            try:
                self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (_key(path), sha256))
            except sqlite3.Error:
                return  # the next download keeps the file aside

    def close(self) -> None:
        """Close the record's database."""
        self._db.close()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _key(path: Path) -> bytes:
    return os.fsencode(os.path.realpath(path.parent) + os.sep + path.name)
