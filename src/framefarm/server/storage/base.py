"""The storage contract. `local.py` implements it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its key and size in bytes."""

    key: str
    size: int


class Store(Protocol):
    """Objects by key, `/`-separated. What a call returned is durable; an object is there whole or not at all.

    A key that is none (empty or dot parts, NUL) is a ValueError; an object that is not there a
    FileNotFoundError. With `if_absent`, a taken key is a FileExistsError, and what has it is durable too.
    """

    def put(self, stream: Iterable[bytes], key: str, *, if_absent: bool = False) -> Stored: ...

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> Stored: ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        """A stream of the object from byte `start`, of at most `length` bytes. The caller closes it."""

    def head(self, key: str) -> Stored: ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is fine."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Every object whose key begins with `prefix`, in the order of keys."""
