"""Passwords: argon2, few at a time, and the same time for an unknown email."""

from __future__ import annotations

import threading

from pwdlib import PasswordHash

from framefarm.core.errors import InvalidInput, TooMany

MIN_LENGTH = 8
AT_ONCE = 4
_hasher = PasswordHash.recommended()
_places = threading.BoundedSemaphore(AT_ONCE)
_DUMMY = _hasher.hash("nobody has this password")


def check_new(password: str, field: str = "password") -> None:
    """The rule for new passwords; never applied at login. Raises InvalidInput."""
    if not MIN_LENGTH <= len(password) <= 1024:
        raise InvalidInput.of(field, f"must have {MIN_LENGTH} to 1024 characters")


def hash_password(password: str) -> str:
    """Takes a while and 64 MiB; call it in a thread. Raises TooMany."""
    with _Place():
        return _hasher.hash(password)


def verify(password: str, stored: str | None) -> bool:
    """Whether it is the password; `stored` None (no such user) takes the same time. Raises TooMany."""
    with _Place():
        return _hasher.verify(password, stored or _DUMMY) and stored is not None


class _Place:
    def __enter__(self) -> None:
        if not _places.acquire(blocking=False):
            raise TooMany("Too many logins at once; try again in a moment.", 1)

    def __exit__(self, *_: object) -> None:
        _places.release()
