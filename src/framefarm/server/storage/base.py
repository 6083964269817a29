"""The storage contract: one suite holds every implementation to it."""

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
    """Objects by key, `/`-separated. What a call returned is durable. Missing objects: FileNotFoundError."""

    def put(self, stream: Iterable[bytes], key: str, *, if_absent: bool = False) -> Stored:
        """Store a stream whole or not at all. With `if_absent`, FileExistsError if the key is taken."""

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> Stored: ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        """A stream of the object from `start`; `length` is the caller's to keep."""

    def head(self, key: str) -> Stored: ...

    def delete(self, key: str) -> None:
        """Deleting what is not there is fine."""

    def list(self, prefix: str) -> Iterator[Stored]: ...
