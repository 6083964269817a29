"""User ids for running sandboxes, one each, so that the kernel's limits per user apply to one sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType

from framefarm.sandboxing.errors import SandboxUnavailable

FIRST_UID = 70_000
UID_COUNT = 10_000
LOCK_FOLDER = "/run/framefarm/uids"


class UidClaim:
    """A user id of this machine (`uid`), held by a file lock until `release` or until this process ends.

    If this process is an ordinary user, `uid` is its own: the kernel then counts each sandbox by its user
    namespace.
    """

    def __init__(self, first: int = FIRST_UID, count: int = UID_COUNT) -> None:
        """Claim the first free id of `first…first + count - 1`. Raises SandboxUnavailable."""
        self._lock: int | None = None
        if os.geteuid() != 0:
            self.uid = os.geteuid()
            return
        try:
            os.makedirs(LOCK_FOLDER, 0o700, exist_ok=True)
            for uid in range(first, first + count):
                lock = os.open(f"{LOCK_FOLDER}/{uid}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    continue
                self._lock = lock
                self.uid = uid
                return
        except OSError as error:
            raise SandboxUnavailable(f"{LOCK_FOLDER} can't be used: {error.strerror}.") from None
        raise SandboxUnavailable(f"All {count} user ids from {first} on are in use.")

    def release(self) -> None:
        """Give the id back. Call it only after the last process of that user has ended.

        The empty lock file stays: removing it could let two claims lock two files of one name.
        """
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                os.close(lock)

    def __enter__(self) -> UidClaim:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
