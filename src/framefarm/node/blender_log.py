"""What Blender prints, kept per attempt up to a bound."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


class BlenderLog:
    """A sink that writes to one file at a time and no more than `limit_bytes` to each.

    Beyond the bound one line says so, and the rest is read and dropped. Without a file everything is
    dropped, and what a full disk does not take, too: nobody may stop reading, or Blender would wait for ever.
    `limit_bytes` is more than 100. Safe to switch while another thread writes.
    """

    def __init__(self, limit_bytes: int = 16 << 20) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._file: int | None = None
        self._left = 0

    def switch(self, path: Path | None) -> None:
        """From now on write to `path`, after what it may already hold."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            if path is None:
                return
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._file = os.open(path, flags, 0o644)
                self._left = self._limit - len(_NOTICE) - os.fstat(self._file).st_size

    def write(self, printed: bytes) -> None:
        with self._lock:
            if self._file is None or self._left < 0:
                return
            kept = printed
            if len(printed) > self._left:
                kept = printed[: self._left] + _NOTICE  # its room was kept free: the bound is exact
            self._left -= len(printed)
            with contextlib.suppress(OSError):
                _write_all(self._file, kept)


_NOTICE = b"\n[The log is full; what follows was left out.]\n"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
