"""Paths of structs that today's Blenders no longer write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from framefarm.blend import path_table


class Written:
    """A block with the given members."""

    def __init__(self, **members: bytes) -> None:
        self._members = members

    def get(self, name: bytes, default: Any = None) -> Any:
        return self._members.get(name.decode(), default)

    def get_pointer(self, name: bytes, default: Any = None) -> Any:
        return default


def test_a_library_lies_where_it_is_stored_and_not_where_it_once_lay() -> None:
    """Files up to 2.83 also tell, as `filepath`, its path on the machine that saved them."""
    block: Any = Written(name=b"//..\\assets\\room.blend", filepath=b"C:\\show\\assets\\room.blend")
    place: Any = SimpleNamespace(linked=frozenset({b"OBRoom"}), wanted_by="library Lib")
    (found,) = path_table.READERS["Library"](block, place)
    assert found.stored == b"//..\\assets\\room.blend"
