"""Contract of a store of bytes by key; `local.py` implements it."""

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
    """Objects by key, a path separated by `/`. A change is durable when its call returns, and never partial.

    Raises ValueError for an invalid key (empty or dot parts, NUL), and FileNotFoundError for an object that
    does not exist. With `if_absent` an existing key raises FileExistsError, and its object is durable, too.
    """

    def put(self, stream: Iterable[bytes], key: str, *, if_absent: bool = False) -> Stored:
        """Store the stream's bytes as the object `key`."""

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> Stored:
        """Store the bytes of the object `source` as the object `target`, too."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        """A stream of the object from byte `start`, of at most `length` bytes. The caller closes it."""

    def head(self, key: str) -> Stored:
        """Key and size of an object."""

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """All objects whose key begins with `prefix`, in the order of keys."""
