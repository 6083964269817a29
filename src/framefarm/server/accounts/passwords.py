"""Hashes of passwords by argon2, a few at a time; a check takes as long for an unknown email."""

from __future__ import annotations

import threading

from pwdlib import PasswordHash

from framefarm.core.errors import InvalidInput, TooMany

MIN_LENGTH = 8
AT_ONCE = 4
"""Most hashes in work at once: each takes 64 MiB."""
_hasher = PasswordHash.recommended()
_turns = threading.BoundedSemaphore(AT_ONCE)
_DUMMY = _hasher.hash("nobody has this password")


def check_new(password: str, field: str = "password") -> None:
    """Check the length of a new password; logins do not apply this rule. Raises InvalidInput."""
    if not MIN_LENGTH <= len(password) <= 1024:
        raise InvalidInput.of(field, f"must have {MIN_LENGTH} to 1024 characters")


def hash_password(password: str) -> str:
    """Hash a password with its own salt. Slow: call it in a thread. Raises TooMany."""
    with _Turn():
        return _hasher.hash(password)


def verify(password: str, password_hash: str | None) -> bool:
    """Whether `password_hash` is of this password. None (no such user) takes as long. Raises TooMany."""
    with _Turn():
        return _hasher.verify(password, password_hash or _DUMMY) and password_hash is not None


class _Turn:
    def __enter__(self) -> None:
        if not _turns.acquire(blocking=False):
            raise TooMany("Too many logins at once; try again in a moment.", 1)

    def __exit__(self, *_: object) -> None:
        _turns.release()
