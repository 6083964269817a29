"""Objects as files below one folder. Durable before a call returns: file synced, renamed, folder synced."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from framefarm.server.storage.base import Stored

MODE = 0o644
"""Readable for the sandbox's user, which sees hard links of content. The data directory itself is 0700."""


class LocalStore:
    """Implements `Store`; `path` is for runners on the same machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("content", "staging", "manifests", "logs", "incoming"):
            (root / name).mkdir(mode=0o755, parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where a key's bytes are, or would be. Raises ValueError for a key that is none."""
        parts = key.split("/")
        if any(p in {"", ".", ".."} or "\0" in p for p in parts):
            raise ValueError(f"not a key: {key[:100]!r}")
        return self.root.joinpath(*parts)

    def incoming(self) -> tuple[int, Path]:
        """A fresh file to write an upload into: (descriptor, path)."""
        fd, name = tempfile.mkstemp(dir=self.root / "incoming")
        return fd, Path(name)

    def take(self, incoming: Path, key: str, *, if_absent: bool = False) -> Stored:
        """Make a written and synced file the object `key`."""
        target = self.path(key)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chmod(incoming, MODE)
        if if_absent:
            os.link(incoming, target)
            os.unlink(incoming)
        else:
            os.replace(incoming, target)
        sync_folder(target.parent)
        return Stored(key, target.stat().st_size)

    def put(self, stream: Iterable[bytes], key: str, *, if_absent: bool = False) -> Stored:
        target = self.path(key)
        if if_absent and target.exists():
            raise FileExistsError(key)
        fd, temporary = self.incoming()
        try:
            with os.fdopen(fd, "wb") as file:
                for piece in stream:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            return self.take(temporary, key, if_absent=if_absent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> Stored:
        with self.get(source) as stream:
            return self.put(iter(lambda: stream.read(1 << 20), b""), target, if_absent=if_absent)

    def get(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        file = open(self.path(key), "rb")  # noqa: SIM115 - the caller closes it
        file.seek(start)
        return file

    def head(self, key: str) -> Stored:
        return Stored(key, self.path(key).stat().st_size)

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[Stored]:
        folder = self.root / prefix.rpartition("/")[0]
        for path in sorted(folder.rglob("*")):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and path.is_file():
                yield Stored(key, path.stat().st_size)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def sweep_incoming(self, older_than_seconds: float, now_seconds: float) -> int:
        """Remove uploads without progress; returns how many."""
        count = 0
        for entry in os.scandir(self.root / "incoming"):
            if now_seconds - entry.stat().st_mtime > older_than_seconds:
                os.unlink(entry.path)
                count += 1
        return count


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
