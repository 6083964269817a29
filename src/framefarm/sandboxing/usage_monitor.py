"""Watching a running sandbox from outside: how much memory its process tree holds and how much disk it fills.

No kernel limit bounds these on every machine: an address-space limit is not a limit of memory, and most
containers can't make a cgroup. Reading the tree's resident memory takes some 30 µs, so it is read ten times a
second, and fifty times near the limit. Before anything is killed, pages that processes share are counted once
(PSS, see proc_pid_smaps(5)).
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
NEAR_SHARE = 0.7
"""Share of the memory limit above which memory is read every `NEAR_PAUSE_SECONDS`."""
DISK_PAUSE_SECONDS = 1.0
DISK_TIME_SHARE = 20
"""Adding up the disk takes at most one part in this many of the time."""
TREE_PAUSE_SECONDS = 0.5
"""How old the list of processes may be while memory is far from its limit."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PAGE = os.sysconf("SC_PAGE_SIZE")


class UsageMonitor:
    """Watches the processes below `pid` in a thread of its own, until `stop` or until it has called `kill`.

    `peak_bytes` is the most memory seen. After a kill, `killed_for` is `out_of_memory` or `too_much_written`,
    and `exceeded_quota` is the quota in the second case.
    """

    def __init__(self, pid: int, limits: Limits, kill: Callable[[], None]) -> None:
        self._pid = pid
        self._limits = limits
        self._kill = kill
        self._ended = threading.Event()
        self.peak_bytes = 0
        self.killed_for: str | None = None
        self.exceeded_quota: Quota | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watching thread and wait for its end, except when called by that thread."""
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
            held = memory_bytes(tree, exact_above=limit)
            self.peak_bytes = max(self.peak_bytes, held)
            if limit is not None and held > limit:
                self._end(KILLED_FOR_MEMORY)
                return
            if time.monotonic() >= disk_due:
                began = time.monotonic()
                self.exceeded_quota = next((q for q in self._limits.quotas if not within_quota(q)), None)
                if self.exceeded_quota is not None:
                    self._end(KILLED_FOR_DISK)
                    return
                disk_due = began + max(DISK_PAUSE_SECONDS, DISK_TIME_SHARE * (time.monotonic() - began))
            near = limit is not None and held > NEAR_SHARE * limit
            pause = NEAR_PAUSE_SECONDS if near else PAUSE_SECONDS

    def _end(self, why: str) -> None:
        if not self._ended.is_set():
            self.killed_for = why
            self._kill()


def memory_bytes(tree: Sequence[int], exact_above: int | None = None) -> int:
    """Bytes of memory that these processes hold together.

    Pages that several processes share count for each of them, unless the sum exceeds `exact_above` bytes:
    then they count once.
    """
    held = sum(_resident(p) for p in tree)
    if exact_above is not None and held > exact_above and len(tree) > 1:
        held = sum(_proportional(p) for p in tree)
    return held


def descendants(pid: int) -> list[int]:
    """Ids of all processes below `pid`, each before its parent."""
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


def within_quota(quota: Quota) -> bool:
    """Whether a folder that a hostile program keeps changing is within its quota. Follows no link.

    A folder that can't be opened counts as within.
    """
    try:
        folder = os.open(quota.path, _FOLDER)
    except OSError:
        return True
    return _remaining(folder, quota.bytes, quota.files, quota.depth) is not None


def _remaining(folder: int, bytes_left: int, files_left: int, depth: int) -> tuple[int, int] | None:
    """The bytes and files left after `folder`, or None if it exceeds them. Closes the descriptor `folder`."""
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
            left = None if depth == 0 else _remaining(inner, bytes_left, files_left, depth - 1)
            if left is None:
                return None
            bytes_left, files_left = left
    finally:
        os.close(folder)
    return bytes_left, files_left
