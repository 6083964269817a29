"""A .blend as a row of blocks with named members, read in bounded memory and without its large data.

A .blend is a header and a row of blocks: a data-block (`SC`, `OB`, `IM`, …), then the `DATA` blocks that
belong to it. Nearly all bytes are meshes, animation and packed files, which nobody reads here: only the
blocks' heads are gone through, and a member is read where and when it is asked for."""

from __future__ import annotations

import re
import struct
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import IO, Any

from framefarm.blend.dna import Dna, Member
from framefarm.blend.source import Forward, MemorySource, NotReadable, Source, open_source

__all__ = ["ODD_BLOCK", "Blend", "Block", "NotReadable", "listbase", "name_of", "pointer", "text"]

KEPT_BYTES = 512 << 20
"""Most bytes of a file that had to be unpacked forward."""
BLOCKS = 20_000_000
INDEXED_BLOCKS = 6_000_000
PREFIX_BYTES = 256 << 10
"""Most bytes kept of a block that was unpacked forward: room for the 32,767 material slots of a mesh."""
DNA_BYTES = 16 << 20
RECENT_GROUPS = 64

UNREAD_CODES = frozenset(b"REND TEST USER AC KE PL WM SR TXT".split())
"""Data-blocks that name no file and no other data-block: their blocks are passed over."""

ODD_BLOCK = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""Exceptions of reading a block whose structure is not as expected."""
_MISSING: Any = object()


class Block:
    """One block: an array of `count` structs. Members are those of the first one.

    A path is a member's name, or a tuple of names through structs within structs: `(b"r", b"sfra")`. Text is
    given as bytes up to its NUL, a row of numbers as a list.
    """

    __slots__ = ("_shift", "bfile", "index")

    def __init__(self, bfile: Blend, index: int, shift: int = 0) -> None:
        self.bfile = bfile
        self.index = index
        self._shift = shift

    @property
    def code(self) -> bytes:
        """`OB` and the like; `DATA` for a part of the data-block before it."""
        return self.bfile.codes[self.bfile.code_numbers[self.index]]

    @property
    def dna_type_name(self) -> str:
        """Name of its struct."""
        return self.bfile.struct_name(self.index)

    @property
    def addr_old(self) -> int:
        """Address that pointers to it have."""
        return self.bfile.addresses[self.index]

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.bfile.sizes[self.index]

    @property
    def count(self) -> int:
        """Number of structs in it."""
        return self.bfile.counts[self.index]

    @property
    def owner(self) -> Block:
        """The data-block that it belongs to."""
        return Block(self.bfile, self.bfile.group_start(self.index))

    def has_field(self, path: bytes | Sequence[bytes]) -> bool:
        """Whether this Blender's struct has the member."""
        return self.bfile.dna.find(self.dna_type_name, path) is not None

    def get(self, path: bytes | Sequence[bytes], default: Any = _MISSING) -> Any:
        """Value of a member; the address for a pointer. Raises KeyError if there is none and no `default`."""
        member = self.bfile.dna.find(self.dna_type_name, path)
        if member is None:
            if default is _MISSING:
                raise KeyError(path)
            return default
        return self.bfile.value(self.index, self._shift, member)

    __getitem__ = get

    def get_pointer(self, path: bytes | Sequence[bytes], default: Any = _MISSING) -> Any:
        """Block that a pointer leads to; None for a null pointer, or for one without a block in the file."""
        address = self.get(path, default)
        return self.bfile.target(address, self.index) if type(address) is int else address

    def item(self, number: int) -> Block:
        """The struct with this number in the array. Raises IndexError."""
        size = self.bfile.struct_size(self.index)
        if not 0 <= number < self.count or (number + 1) * size > self.size:
            raise IndexError(number)
        return Block(self.bfile, self.index, number * size)

    def raw_data(self) -> bytes:
        """Its bytes; of a file that was unpacked forward, at most PREFIX_BYTES."""
        return self.bfile.source.read_at(self.bfile.offsets[self.index], self.size)

    def as_bytes_string(self) -> bytes:
        """Its bytes as text, up to a NUL."""
        return self.raw_data().partition(b"\0")[0]

    def iter_array_of_pointers(self, path: bytes | Sequence[bytes], array_size: int) -> Iterator[Block]:
        """Blocks that an array of pointers leads to."""
        held = self.get_pointer(path)
        if held is not None and array_size > 0:
            for address in self.bfile.words(held.raw_data()[: array_size * self.bfile.pointer_size]):
                found = self.bfile.target(address, self.index)
                if found is not None:
                    yield found


class Blend:
    """An open .blend. Nothing is closed: whoever opened the file does that.

    `codes` are the kinds of blocks; the arrays hold one entry a block.
    """

    def __init__(self, file: IO[bytes], most_blocks: int = INDEXED_BLOCKS) -> None:
        """Raises NotReadable if it is no .blend, cut off, damaged, or beyond the limits."""
        opened = open_source(file)
        self.source: Source = MemorySource(_reduce(opened)) if isinstance(opened, Forward) else opened
        self.version, self.pointer_size, self._endian, self._head, start = _header(self.source.read_at(0, 17))
        self._word = "Q" if self.pointer_size == 8 else "I"
        self.codes: list[bytes] = []
        self.code_numbers, self.structs = array("B"), array("i")
        self.addresses, self.sizes, self.counts, self.offsets = array("Q"), array("q"), array("q"), array("q")
        self.starts = array("i")
        """Number of the first block of each group: a data-block and its DATA."""
        self.by_address: dict[int, int] = {}
        """Address of a data-block → its number."""
        self.code_index: defaultdict[bytes, list[Block]] = defaultdict(list)
        self._recent: OrderedDict[int, dict[int, int]] = OrderedDict()
        self.dna = self._read_blocks(start, most_blocks)

    def _read_blocks(self, position: int, most_blocks: int) -> Dna:
        numbers: dict[bytes, int] = {}
        head, names = self._head
        at_code, at_size = names.index("code"), names.index("size")
        at_old, at_struct, at_count = names.index("old"), names.index("struct"), names.index("count")
        dna, passing, read = None, False, self.source.read_at
        for _ in range(BLOCKS):
            raw = read(position, head.size)
            if raw[:4] == b"ENDB":
                if dna is None:
                    raise NotReadable("is damaged: it lacks the description of its structs")
                return dna
            if len(raw) < head.size:
                raise NotReadable("is cut off: it ends in the middle of its data")
            values = head.unpack(raw)
            code, size = values[at_code].rstrip(b"\0"), values[at_size]
            if size < 0:
                raise NotReadable("is damaged: a block has a negative length")
            offset = position + head.size
            position = offset + size
            if position > self.source.size:
                raise NotReadable("is cut off: it ends in the middle of its data")
            if code == b"DNA1":
                if size > DNA_BYTES:
                    raise NotReadable("is damaged: its description of structs is too long")
                dna = Dna(read(offset, size), self.pointer_size, self._endian)
                continue
            index = len(self.offsets)
            if code != b"DATA":
                passing = code in UNREAD_CODES
                if not passing:
                    self.starts.append(index)
                    self.by_address[values[at_old]] = index
                    self.code_index[code].append(Block(self, index))
            if passing:
                continue
            if index >= most_blocks:
                raise NotReadable("has too many data-blocks to read")
            number = numbers.get(code)
            if number is None:
                number = numbers[code] = len(self.codes)
                self.codes.append(code)
                if number > 250:
                    raise NotReadable("is damaged: it has blocks of too many kinds")
            self.code_numbers.append(number)
            self.structs.append(values[at_struct])
            self.addresses.append(values[at_old])
            self.sizes.append(size)
            self.counts.append(values[at_count])
            self.offsets.append(offset)
        raise NotReadable("has too many blocks")

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, in the file's order."""
        return (Block(self, index) for index in range(len(self.offsets)))

    def groups(self) -> Iterator[tuple[Block, range]]:
        """Each data-block, with the numbers of its blocks."""
        for number, start in enumerate(self.starts):
            yield Block(self, start), self.group(number)

    def group(self, number: int) -> range:
        """Numbers of the blocks of a data-block, by the number of its group."""
        last = number + 1 == len(self.starts)
        return range(self.starts[number], len(self.offsets) if last else self.starts[number + 1])

    def group_number(self, index: int) -> int:
        """Number of the group that a block belongs to."""
        low, high = 0, len(self.starts)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.starts[middle] <= index else (low, middle)
        return low - 1

    def group_start(self, index: int) -> int:
        return self.starts[max(0, self.group_number(index))]

    def struct_name(self, index: int) -> str:
        number = self.structs[index]
        return self.dna.structs[number].name if 0 <= number < len(self.dna.structs) else ""

    def struct_size(self, index: int) -> int:
        return self.dna.structs[self.structs[index]].size

    def words(self, raw: bytes) -> Sequence[int]:
        """The pointers in raw bytes."""
        count = len(raw) // self.pointer_size
        return struct.unpack_from(f"{self._endian}{count}{self._word}", raw)

    def target(self, address: int, index: int) -> Block | None:
        """Block at an address, as block `index` means it: one of its own data-block, or another data-block.

        Blender may use an address again for the parts of another data-block.
        """
        if address == 0:
            return None
        group = self.group_number(index)
        parts = self._recent.get(group)
        if parts is None:
            parts = {self.addresses[i]: i for i in self.group(group)} if group >= 0 else {}
            self._recent[group] = parts
            if len(self._recent) > RECENT_GROUPS:
                self._recent.popitem(last=False)
        else:
            self._recent.move_to_end(group)
        found = parts.get(address)
        if found is None:
            found = self.by_address.get(address)
        return None if found is None else Block(self, found)

    def value(self, index: int, shift: int, member: Member) -> Any:
        """Value of a member of a block. Raises KeyError if it lies beyond the block, or is a whole struct."""
        end = shift + member.offset + member.size
        if end > self.sizes[index]:
            raise KeyError("the block is shorter than its struct")
        raw = self.source.read_at(self.offsets[index] + shift + member.offset, member.size)
        if len(raw) != member.size:
            raise KeyError("the file ends within the block")
        if member.is_pointer:
            return struct.unpack_from(self._endian + self._word, raw)[0]
        if member.type == "char" and member.count > 1:
            return raw.partition(b"\0")[0]
        if member.number is None:
            raise KeyError(f"{member.type} is a struct")
        values = struct.unpack(f"{self._endian}{member.count}{member.number}", raw)
        return values[0] if member.count == 1 else list(values)


Header = tuple[int, int, str, tuple[struct.Struct, tuple[str, ...]], int]
_HEADER = re.compile(rb"BLENDER([_-])([vV])(\d{3})")
_LARGE_HEADER = re.compile(rb"BLENDER17-01v(\d{4})")


def _header(start: bytes) -> Header:
    """Version, pointer size, byte order, form of a block's head, and length of the file's header.

    It is 12 bytes (`BLENDER-v402`), from Blender 5.0 on 17 (`BLENDER17-01v0500`). Raises NotReadable.
    """
    large = _LARGE_HEADER.match(start)
    if large is not None:
        names = ("code", "struct", "old", "size", "count")
        return int(large[1]), 8, "<", (struct.Struct("<4siQqq"), names), 17
    small = _HEADER.match(start)
    if small is None:
        known = start.startswith(b"BLENDER")
        raise NotReadable("has a header that no known Blender writes" if known else "is not a .blend file")
    pointer_size, endian = 8 if small[1] == b"-" else 4, "<" if small[2] == b"v" else ">"
    layout = struct.Struct(f"{endian}4si{'Q' if pointer_size == 8 else 'I'}ii")
    return int(small[3]), pointer_size, endian, (layout, ("code", "size", "old", "struct", "count")), 12


def _reduce(source: Forward) -> bytes:
    """The .blend unpacked forward, without data-blocks of `UNREAD_CODES` and the rest of long blocks."""
    start = source.read(12)
    if start[7:8] not in (b"_", b"-"):
        start += source.read(5)
    _, _, _, (layout, names), _ = _header(start)
    out = bytearray(start)
    passing = False
    for _ in range(BLOCKS):
        raw = source.read(4)
        if raw == b"ENDB":  # 4 bytes in files before Blender 2.5
            return bytes(out + raw.ljust(layout.size, b"\0"))
        values = dict(zip(names, layout.unpack(raw + source.read(layout.size - 4)), strict=True))
        code, size = values["code"].rstrip(b"\0"), values["size"]
        if size < 0:
            raise NotReadable("is damaged: a block has a negative length")
        if code != b"DATA":
            passing = code in UNREAD_CODES
        if passing:
            source.skip(size)
            continue
        values["size"] = min(size, DNA_BYTES if code == b"DNA1" else PREFIX_BYTES)
        out += layout.pack(*values.values())
        out += source.read(values["size"])
        source.skip(size - values["size"])
        if len(out) > KEPT_BYTES:
            raise NotReadable("has too many data-blocks to read")
    raise NotReadable("has too many blocks")


def listbase(block: Any, limit: int = 100_000) -> Iterator[Any]:
    """Blocks of a linked list, at most `limit`; stops at the first repeated block of a circular list."""
    seen: set[int] = set()
    while block is not None and block.addr_old not in seen and len(seen) < limit:
        seen.add(block.addr_old)
        yield block
        block = block.get_pointer(b"next")


def pointer(block: Any, path: Any) -> Any:
    """Target of a pointer; None for a null pointer, or if this Blender's structs lack the field."""
    return None if block is None else block.get_pointer(path, None)


def name_of(block: Any) -> str:
    """A data-block's name without its two-letter type code; linked data-blocks are bare `ID` structs."""
    return text(raw_name(block)[2:])


def raw_name(block: Any) -> bytes:
    """A data-block's name with its type code, as `OBCube`."""
    raw: bytes = block.get(b"name") if block.dna_type_name == "ID" else block.get((b"id", b"name"))
    return raw


def text(raw: bytes) -> str:
    """Stored bytes as text for a person; damaged UTF-8 is replaced."""
    return raw.decode("utf-8", "replace")
