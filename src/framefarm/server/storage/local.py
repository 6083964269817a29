"""Objects as files below one folder. Each call syncs the file and its folders before it returns."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from framefarm.server.storage.base import Stored

AREAS = ("content", "staging", "manifests", "logs", "thumbnails")
"""First parts of all keys."""
INCOMING = "incoming"
MODE = 0o644
"""Readable for the sandbox's user, which sees hard links of content. The data directory itself is 0700."""
PIECE = 1 << 20
"""Bytes that are read at once."""


class LocalStore:
    """Implementation of `Store` on a local disk; `path` is for runners on the same machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (*AREAS, INCOMING):
            (root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        self.sweep_incoming()

    def path(self, key: str) -> Path:
        """Path of an object, which need not exist. Raises ValueError for an invalid key."""
        parts = key.split("/")
        if len(parts) < 2 or parts[0] not in AREAS or not _safe(parts):
            raise ValueError(f"not a key: {key[:100]!r}")
        return self.root.joinpath(*parts)

    # -- the contract

    def put(self, stream: Iterable[bytes], key: str, *, if_absent: bool = False) -> Stored:
        target = self.path(key)
        if if_absent and target.exists():
            self._sync_up(target.parent)
            raise FileExistsError(key)
        fd, incoming = self.incoming()
        try:
            with os.fdopen(fd, "wb") as file:
                for piece in stream:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                return self.take(incoming, key, if_absent=if_absent)
        finally:
            incoming.unlink(missing_ok=True)

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> Stored:
        with self.get(source) as stream:
            return self.put(iter(lambda: stream.read(PIECE), b""), target, if_absent=if_absent)

    def get(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        fd = os.open(self.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(key)
            end = status.st_size if length is None else min(status.st_size, start + length)
            return io.BufferedReader(_Slice(fd, start, end), PIECE)
        except BaseException:
            os.close(fd)
            raise

    def head(self, key: str) -> Stored:
        status = self.path(key).lstat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(key)
        return Stored(key, status.st_size)

    def delete(self, key: str) -> None:
        path = self.path(key)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def list(self, prefix: str) -> Iterator[Stored]:
        folder, _, _ = prefix.rpartition("/")
        parts = folder.split("/") if folder else []
        if not _safe(parts):
            raise ValueError(f"not a prefix: {prefix[:100]!r}")
        areas = [self.root.joinpath(*parts)] if parts else [self.root / area for area in AREAS]
        keys = sorted(path.relative_to(self.root).as_posix() for area in areas for path in area.rglob("*"))
        for key in keys:
            if key.startswith(prefix) and key.partition("/")[0] in AREAS:
                with contextlib.suppress(FileNotFoundError):  # a folder, or deleted meanwhile
                    yield self.head(key)

    # -- for retention

    def touch(self, key: str) -> bool:
        """Make an object durable, and young, so that `remove_older` keeps it. False: it does not exist."""
        path = self.path(key)
        with _locked(path, fcntl.LOCK_SH) as fd:
            if fd is None:
                return False
            os.utime(fd)
            exists = _is_at(fd, path)
        if exists:
            self._sync_up(path.parent)
        return exists

    def remove_older(self, key: str, before_ns: int) -> bool:
        """Remove an object that was not written or touched since `before_ns` (of the disk's clock).

        Returns whether it was removed. A concurrent `touch` either comes first, and the object stays; or
        second, and returns False.
        """
        path = self.path(key)
        with _locked(path, fcntl.LOCK_EX) as fd:
            if fd is None or os.fstat(fd).st_mtime_ns >= before_ns or not _is_at(fd, path):
                return False
            path.unlink()
        return True

    def walk(self, area: str) -> Iterator[Aged]:
        """All objects of an area, in no order, without those that are removed meanwhile."""
        folders = [self.root / area]
        while folders:
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        key = Path(entry.path).relative_to(self.root).as_posix()
                        yield Aged(key, status.st_size, status.st_mtime_ns)

    def prune_folder(self, key: str) -> None:
        """Remove the folder of an object, if it is empty."""
        with contextlib.suppress(OSError):
            self.path(key).parent.rmdir()

    # -- uploads: the file is written first, and gets its key when its hash is known

    def incoming(self) -> tuple[int, Path]:
        """Create an empty file for an upload; returns (descriptor, path). The caller removes it.

        The file is locked while the descriptor is open: `sweep_incoming` removes only unlocked ones.
        """
        while True:
            fd, name = tempfile.mkstemp(dir=self.root / INCOMING)
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.fchmod(fd, MODE)
            if os.fstat(fd).st_nlink:
                return fd, Path(name)
            os.close(fd)  # another process swept it before it was locked

    def take(self, incoming: Path, key: str, *, if_absent: bool = False) -> Stored:
        """Make a written and synced file the object `key`. With `if_absent` the incoming file stays, too."""
        target = self.path(key)
        size = incoming.stat().st_size
        os.utime(incoming)  # its age counts from now, however long its bytes took to arrive
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if if_absent:
                    os.link(incoming, target)
                else:
                    os.replace(incoming, target)
            except FileNotFoundError:
                incoming.stat()
                continue  # the empty folder was removed meanwhile
            except FileExistsError:
                self._sync_up(target.parent)
                raise
            break
        self._sync_up(target.parent)
        return Stored(key, size)

    def sweep_incoming(self) -> int:
        """Remove incoming files whose process has ended; returns their number."""
        count = 0
        for entry in os.scandir(self.root / INCOMING):
            try:
                fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
                count += 1
            except (BlockingIOError, FileNotFoundError):
                pass
            finally:
                os.close(fd)
        return count

    def free_bytes(self) -> int:
        """Free bytes of the disk."""
        return shutil.disk_usage(self.root).free

    def _sync_up(self, folder: Path) -> None:
        """Sync a folder and those above it: any of them may be new."""
        while folder != self.root:
            sync_folder(folder)
            folder = folder.parent


@dataclass(frozen=True, slots=True)
class Aged:
    """An object: its key, size in bytes, and the time of its last write or touch (ns of the disk's clock)."""

    key: str
    size: int
    changed_ns: int


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[int | None]:
    """The object's descriptor, locked by this operation of `fcntl.flock`; None: it does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(fd, operation)
        yield fd
    finally:
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file still has that path."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


class _Slice(io.RawIOBase):
    """Bytes `start` to `end` of a descriptor, which is closed with the stream."""

    def __init__(self, fd: int, start: int, end: int) -> None:
        self._fd, self._at, self._end = fd, start, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), max(0, self._end - self._at))
        count = os.preadv(self._fd, [memoryview(buffer)[:size]], self._at) if size else 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def _safe(parts: list[str]) -> bool:
    return not any(part in {"", ".", ".."} or "\0" in part for part in parts)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
