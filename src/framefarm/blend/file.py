"""Reduction of a .blend to the blocks that are read, in bounded memory.

A .blend is a header and a row of blocks: a data-block (`SC`, `OB`,
`IM`, …), then the `DATA` blocks that belong to it. Nearly all bytes are meshes, animation and packed files,
which nobody reads here. The file is read once, and decompressed on the way: data-blocks of other types
than `KEPT_CODES` are dropped with their `DATA` blocks, and of long blocks only the start is kept.
"""

from __future__ import annotations

import gzip
import io
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import zstandard
from blender_asset_tracer import blendfile
from blender_asset_tracer.blendfile import header as blend_header

KEPT_BYTES = 512 << 20  # of one reduced file
UNPACKED_BYTES = 64 << 30
BLOCKS = 20_000_000
PREFIX_BYTES = 64 << 10  # of a long block; single structs are far shorter
MESH_PREFIX_BYTES = 4 << 10
DNA_BYTES = 16 << 20

KEPT_CODES = frozenset(
    # scenes, objects, particle settings, node groups, collections, cameras; and all that names a file
    b"SC OB PA NT GR CA IM LI MC SO VF VO CF LA ME"
    # placeholders of linked data-blocks, the file's globals, the description of all structs
    b" ID GLOB DNA1".split()
)

Block = Any
"""A block of a .blend file, or a value in one, as the untyped blender-asset-tracer library gives it."""


ODD_BLOCK = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    blendfile.exceptions.BlendFileError,
    blendfile.exceptions.SegmentationFault,
)
"""Exceptions of reading a block whose structure is not as expected."""


class NotReadable(Exception):
    """Not a complete .blend. The text continues the sentence "scene.blend …", as "is cut off"."""


class ThinBlend(blendfile.BlendFile):
    """A reduced .blend, read from an open file. Not strict about pointers: most of them have no target."""

    strict_pointer_mode = False

    def __init__(self, file: IO[bytes], shown_path: str) -> None:
        self._reduced = reduce_blend(file)
        super().__init__(pathlib.Path(shown_path))

    def _open_file(self, path: pathlib.Path, mode: str) -> IO[bytes]:
        self.is_compressed = False
        return self._reduced


def reduce_blend(file: IO[bytes]) -> io.BytesIO:
    """The reduced .blend. Raises NotReadable if it is no .blend, cut off, damaged, or beyond the limits."""
    try:
        return _reduce(_Source(file))
    except (zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise NotReadable("is damaged: it can't be unpacked") from error
    except EOFError as error:
        raise NotReadable("is cut off: its packed data ends early") from error


class _Source:
    """Reads a plain, gzip or Zstandard file forward, and limits its decompressed bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        magic = file.read(7)
        file.seek(0)
        self._seekable = False
        if magic == b"BLENDER":
            self._file: Any = file
            self._seekable = True
        elif magic[:2] == b"\x1f\x8b":
            self._file = gzip.GzipFile(fileobj=file, mode="rb")
        elif magic[:4] == b"\x28\xb5\x2f\xfd" or magic[1:4] == b"\x2a\x4d\x18":
            self._file = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
                file, read_across_frames=True
            )
        else:
            raise NotReadable("is empty" if not magic else "is not a .blend file")
        self._size = os.fstat(file.fileno()).st_size
        self._position = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        parts, missing = [], size
        while missing:
            part = self._file.read(missing)
            if not part:
                raise NotReadable("is cut off: it ends in the middle of its data")
            parts.append(part)
            missing -= len(part)
        self._advance(size)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        if self._seekable:
            self._advance(size)
            if self._position > self._size:
                raise NotReadable("is cut off: it ends in the middle of its data")
            self._file.seek(size, os.SEEK_CUR)
            return
        while size:
            size -= len(self.read(min(size, 1 << 20)))

    def _advance(self, size: int) -> None:
        self._position += size
        if self._position > UNPACKED_BYTES:
            raise NotReadable(f"is larger than {UNPACKED_BYTES >> 30} GiB when unpacked")


def _reduce(source: _Source) -> io.BytesIO:
    out = io.BytesIO()
    head, start = _header(source)
    out.write(start)
    layout, fields = head.create_block_header_struct()
    names = list(fields.__dataclass_fields__)
    owner = b""
    for _ in range(BLOCKS):
        raw = _block_header(source, layout.size)
        values = dict(zip(names, layout.unpack(raw), strict=True))
        code = values["code"].rstrip(b"\0")
        if code == b"ENDB":
            out.write(raw)
            out.seek(0)
            return out
        size = values["len"]
        if size < 0:
            raise NotReadable("is damaged: a block has a negative length")
        if code != b"DATA":
            owner = code
        if owner not in KEPT_CODES:
            source.skip(size)
            continue
        limit = DNA_BYTES if code == b"DNA1" else MESH_PREFIX_BYTES if owner == b"ME" else PREFIX_BYTES
        if size > limit:
            if code == b"DNA1":
                raise NotReadable("is damaged: its description of structs is too long")
            values["len"] = limit
            raw = layout.pack(*values.values())
        kept = min(size, limit)
        out.write(raw)
        out.write(source.read(kept))
        source.skip(size - kept)
        if out.tell() > KEPT_BYTES:
            raise NotReadable("has too many data-blocks to read")
    raise NotReadable("has too many blocks")


def _header(source: _Source) -> tuple[Block, bytes]:
    """Header object and its bytes: 12 (`BLENDER-v402`), from Blender 5.0 on 17 (`BLENDER17-01v0500`)."""
    start = source.read(12)
    if not start.startswith(b"BLENDER"):
        raise NotReadable("is not a .blend file")
    if start[7:8] not in (b"_", b"-"):
        start += source.read(5)
    try:
        return blend_header.BlendFileHeader(io.BytesIO(start), pathlib.Path("scene.blend")), start
    except (ValueError, blendfile.exceptions.BlendFileError) as error:
        raise NotReadable("has a header that no known Blender writes") from error


def _block_header(source: _Source, size: int) -> bytes:
    """Bytes of a block's header. The `ENDB` of files before Blender 2.5 is only 4 bytes: it is padded."""
    start = source.read(4)
    if start == b"ENDB":
        return start.ljust(size, b"\0")
    return start + source.read(size - 4)


def listbase(block: Block, limit: int = 100_000) -> Iterator[Block]:
    """Blocks of a linked list, at most `limit`; stops at the first repeated block of a circular list."""
    seen: set[int] = set()
    while block is not None and block.addr_old not in seen and len(seen) < limit:
        seen.add(block.addr_old)
        yield block
        block = block.get_pointer(b"next")


def pointer(block: Block, path: Block) -> Block:
    """Target of a pointer; None for a null pointer, or if this Blender's structs lack the field."""
    return None if block is None else block.get_pointer(path, None)


def name_of(block: Block) -> str:
    """A data-block's name without its two-letter type code; linked data-blocks are bare `ID` structs."""
    raw = block.get(b"name") if block.dna_type_name == "ID" else block.get((b"id", b"name"))
    return text(raw[2:])


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
