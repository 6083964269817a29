"""A user id of its own for each running sandbox, so that a limit of one is no limit of another."""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType

from framefarm.sandboxing.errors import SandboxUnavailable

FIRST = 70_000
COUNT = 10_000
LOCKS = "/run/framefarm/uids"


class Claim:
    """`uid` is nobody else's on this machine until `release`, or until this process ends.

    As an ordinary user it is one's own: a sandbox then counts by its own user namespace.
    """

    def __init__(self, first: int = FIRST, count: int = COUNT) -> None:
        """The first free id of `first…first + count - 1`. Raises SandboxUnavailable."""
        self._lock: int | None = None
        if os.geteuid() != 0:
            self.uid = os.geteuid()
            return
        try:
            os.makedirs(LOCKS, 0o700, exist_ok=True)
            for uid in range(first, first + count):
                lock = os.open(f"{LOCKS}/{uid}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    continue
                self._lock = lock
                self.uid = uid
                return
        except OSError as error:
            raise SandboxUnavailable(f"{LOCKS} can't be used: {error.strerror}.") from None
        raise SandboxUnavailable(f"All {count} user ids from {first} on are in use.")

    def release(self) -> None:
        """Only after the last process of that user has ended. The lock's file stays: it is empty."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                os.close(lock)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
