"""Structs and paths that today's Blenders no longer write."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

from framefarm.blend import path_table
from framefarm.blend.dna import Dna


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


def test_a_member_without_a_name_is_read() -> None:
    """Files up to 2.49 have one."""
    names, types, row = (b"*next", b"size", b"[3]"), (b"int", b"short", b"Odd"), struct.Struct("<2H")
    rows = b"".join(row.pack(*pair) for pair in ((2, 3), (2, 0), (1, 2), (0, 1)))
    data = b"SDNA"
    for mark, texts in ((b"NAME", names), (b"TYPE", types)):
        data += mark + struct.pack("<I", len(texts)) + b"".join(text + b"\0" for text in texts)
        data += b"\0" * (-len(data) % 4)
    data += b"TLEN" + struct.pack("<4H", 4, 2, 18, 0) + b"STRC" + struct.pack("<I", 1) + rows
    found = Dna(data, 8, "<").find("Odd", b"size")
    assert found is not None
    assert (found.offset, found.size) == (14, 4)
