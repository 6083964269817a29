"""Structs of a .blend, as its own description of them (the block `DNA1`) gives them.

The form is that of makesdna.cc and dna_genfile.cc in Blender: rows of names, types, lengths and structs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from framefarm.blend.source import NotReadable

_NUMBERS = {
    "char": "b", "uchar": "B", "int8_t": "b", "uint8_t": "B", "short": "h", "ushort": "H", "int": "i",
    "uint": "I",
    "int16_t": "h", "uint16_t": "H", "int32_t": "i", "uint32_t": "I", "float": "f", "double": "d",
    "int64_t": "q", "uint64_t": "Q", "long": "i", "ulong": "I",
}  # fmt: skip
_NAME = re.compile(rb"\(?(\**)(\w*)\)?(?:\(.*\))?((?:\[\d+\])*)")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct. `type` is its type's name, `offset` and `size` are bytes, `count` its
    elements."""

    type: str
    offset: int
    size: int
    count: int
    is_pointer: bool

    @property
    def number(self) -> str | None:
        """Its format for the module `struct`; None if it is neither a number nor text."""
        return _NUMBERS.get(self.type)


@dataclass(slots=True)
class Struct:
    """A struct: its name, its bytes and its members by name."""

    name: str
    size: int
    members: dict[bytes, Member] = field(default_factory=dict)


class Dna:
    """All structs of a file."""

    def __init__(self, data: bytes, pointer_size: int, endian: str) -> None:
        """Raises NotReadable for data that is no such description."""
        self.structs: list[Struct] = []
        self.by_name: dict[str, Struct] = {}
        self._found: dict[tuple[str, tuple[bytes, ...]], Member | None] = {}
        try:
            self._read(data, pointer_size, endian)
        except (struct.error, IndexError, ValueError, ArithmeticError) as error:
            raise NotReadable("is damaged: its description of structs contradicts itself") from error

    def _read(self, data: bytes, pointer_size: int, endian: str) -> None:
        number, half = struct.Struct(endian + "I"), struct.Struct(endian + "H")
        pair = struct.Struct(endian + "HH")
        position = 8  # after "SDNA" and "NAME"

        def texts() -> list[bytes]:
            nonlocal position
            (count,) = number.unpack_from(data, position)
            position += 4
            found = []
            for _ in range(count):
                end = data.index(b"\0", position)
                found.append(data[position:end])
                position = end + 1
            position = (position + 3 & ~3) + 4  # with the next row's mark
            return found

        names, types = texts(), texts()
        lengths = [half.unpack_from(data, position + 2 * i)[0] for i in range(len(types))]
        position = (position + 2 * len(types) + 3 & ~3) + 4
        (count,) = number.unpack_from(data, position)
        position += 4
        parsed = [_name(name) for name in names]
        for _ in range(count):
            kind, members = pair.unpack_from(data, position)
            position += 4
            made = Struct(types[kind].decode("ascii", "replace"), lengths[kind])
            offset = 0
            for _ in range(members):
                member_type, name = pair.unpack_from(data, position)
                position += 4
                plain, is_pointer, elements = parsed[name]
                size = (pointer_size if is_pointer else lengths[member_type]) * elements
                of = types[member_type].decode("ascii", "replace")
                made.members[plain] = Member(of, offset, size, elements, is_pointer)
                offset += size
            self.structs.append(made)
            self.by_name[made.name] = made

    def find(self, of: str, path: bytes | Sequence[bytes]) -> Member | None:
        """The member at a path, as `(b"r", b"sfra")`, its offset counted from the start of `of`; else
        None."""
        parts = (path,) if isinstance(path, bytes) else tuple(path)
        key = (of, parts)
        if key not in self._found:
            self._found[key] = self._look_up(of, parts)
        return self._found[key]

    def _look_up(self, of: str, parts: tuple[bytes, ...]) -> Member | None:
        offset, member = 0, None
        for part in parts:
            within = self.by_name.get(of)
            member = None if within is None else within.members.get(part)
            if member is None:
                return None
            offset, of = offset + member.offset, member.type
        assert member is not None
        return Member(member.type, offset, member.size, member.count, member.is_pointer)


def _name(written: bytes) -> tuple[bytes, bool, int]:
    """Name, whether it is a pointer, and number of elements, of a member as `*mat[4]` or `(*free)()`."""
    fits = _NAME.match(written)
    if fits is None:
        raise ValueError(written)
    elements = 1
    for count in re.findall(rb"\d+", fits[3]):
        elements *= int(count)
    return fits[2], bool(fits[1]), elements
