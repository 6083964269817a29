"""Watching a running sandbox from outside: how much memory its tree holds, how much disk it fills.

What no kernel limit can bound everywhere: an address-space limit says nothing of memory, and a cgroup can't
be made in most containers. The tree's resident memory costs some 30 µs to read, so it is read ten times a
second, and fifty times near the limit. Resident pages that processes share are counted once (PSS) before
anything is killed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence

from framefarm.sandboxing.limits import KILLED_FOR_DISK, KILLED_FOR_MEMORY, Limits, Quota

PAUSE_SECONDS = 0.1
NEAR_PAUSE_SECONDS = 0.02
NEAR = 0.7
DISK_PAUSE_SECONDS = 1.0
DISK_SHARE = 20
"""Looking at the disk takes at most one part in so many of the time."""
TREE_PAUSE_SECONDS = 0.5
"""Far from the limit the list of processes may be this old."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PAGE = os.sysconf("SC_PAGE_SIZE")


class UsageMonitor:
    """Watches the tree below `pid` from a thread of its own until `stop`, or until it has called `kill`.

    `killed_for` is then `out_of_memory` or `too_much_written`; `full` is the quota that was passed.
    """

    def __init__(self, pid: int, limits: Limits, kill: Callable[[], None]) -> None:
        self._pid = pid
        self._limits = limits
        self._kill = kill
        self._ended = threading.Event()
        self.peak_bytes = 0
        self.killed_for: str | None = None
        self.full: Quota | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        limit = self._limits.memory_bytes
        disk_due = time.monotonic() + DISK_PAUSE_SECONDS
        tree: list[int] = []
        tree_due = 0.0
        pause = 0.0
        while not self._ended.wait(pause):
            if pause == NEAR_PAUSE_SECONDS or time.monotonic() >= tree_due:
                tree = descendants(self._pid)
                tree_due = time.monotonic() + TREE_PAUSE_SECONDS
            held = memory(tree, exact_above=limit)
            self.peak_bytes = max(self.peak_bytes, held)
            if limit is not None and held > limit:
                self._end(KILLED_FOR_MEMORY)
                return
            if time.monotonic() >= disk_due:
                began = time.monotonic()
                self.full = next((q for q in self._limits.quotas if not fits(q)), None)
                if self.full is not None:
                    self._end(KILLED_FOR_DISK)
                    return
                disk_due = began + max(DISK_PAUSE_SECONDS, DISK_SHARE * (time.monotonic() - began))
            near = limit is not None and held > NEAR * limit
            pause = NEAR_PAUSE_SECONDS if near else PAUSE_SECONDS

    def _end(self, why: str) -> None:
        if not self._ended.is_set():
            self.killed_for = why
            self._kill()


def memory(tree: Sequence[int], exact_above: int | None = None) -> int:
    """Bytes of memory that these processes hold. Pages that several share count for each, unless the sum
    is more than `exact_above`: then each counts with its share."""
    held = sum(_resident(p) for p in tree)
    if exact_above is not None and held > exact_above and len(tree) > 1:
        held = sum(_proportional(p) for p in tree)
    return held


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, each before its parent."""
    found: list[int] = []
    below = [pid]
    while below:
        parent = below.pop()
        for child in _children(parent):
            found.append(child)
            below.append(child)
    return found[::-1]


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                children += map(int, stream.read().split())
    return children


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as stream:
            return int(stream.read(128).split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
            for line in stream:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return _resident(pid)


def fits(quota: Quota) -> bool:
    """Whether a hostile, changing folder is within its quota. No link is followed."""
    try:
        folder = os.open(quota.path, _FOLDER)
    except OSError:
        return True
    return _use(folder, quota.bytes, quota.files, quota.depth) is not None


def _use(folder: int, bytes_left: int, files_left: int, depth: int) -> tuple[int, int] | None:
    """What is left of both after `folder` (closed here), or None if too little."""
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    state = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                bytes_left -= state.st_blocks * 512
                files_left -= 1
                if bytes_left < 0 or files_left < 0:
                    return None
                if stat.S_ISDIR(state.st_mode):
                    folders.append(entry.name)
        for name in folders:
            try:
                inner = os.open(name, _FOLDER, dir_fd=folder)
            except OSError:
                continue
            left = None if depth == 0 else _use(inner, bytes_left, files_left, depth - 1)
            if left is None:
                return None
            bytes_left, files_left = left
    finally:
        os.close(folder)
    return bytes_left, files_left
