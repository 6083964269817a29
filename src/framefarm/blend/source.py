"""Bytes of a .blend by position: plain, or decompressed piece by piece.

A Zstandard .blend, as Blender 3.0 and later write it, ends with a table of its frames, so that a part is read
without the parts before it. Other compressed files are unpacked once, forward, to the blocks that are read.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from bisect import bisect_right
from collections import OrderedDict
from typing import IO, Any, Protocol

import zstandard

UNPACKED_BYTES = 64 << 30
FRAME_BYTES = 64 << 20
"""Longest frame of a Zstandard file; Blender writes frames of 1 MiB."""
FRAMES = 1 << 20
KEPT_FRAMES = 8
WINDOW_BYTES = 64 << 10
_SEEK_TABLE, _SKIPPABLE = 0x8F92EAB1, 0x184D2A5E


class NotReadable(Exception):
    """Not a complete .blend. The text continues the sentence "scene.blend …", as "is cut off"."""


class Source(Protocol):
    """Random access to the unpacked bytes. `size` is their number."""

    size: int

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end. Raises NotReadable."""


class PlainSource:
    """A file that is not compressed, read through its descriptor in windows."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file  # keeps the descriptor open
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size
        self._start, self._window = 0, b""

    def read_at(self, position: int, size: int) -> bytes:
        start = position - self._start
        if start >= 0 and start + size <= len(self._window):
            return self._window[start : start + size]
        if size >= WINDOW_BYTES:
            return _pread(self._file, self._descriptor, size, position)
        self._start = position
        self._window = _pread(self._file, self._descriptor, WINDOW_BYTES, position)
        return self._window[:size]


def _pread(file: IO[bytes], descriptor: int, size: int, position: int) -> bytes:
    if not hasattr(os, "pread"):  # Windows
        file.seek(position)
        return file.read(size)
    return os.pread(descriptor, size, position)


class MemorySource:
    """Unpacked bytes in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read_at(self, position: int, size: int) -> bytes:
        return bytes(self._data[position : position + size])


class FramedSource:
    """A Zstandard file with a table of its frames."""

    def __init__(self, file: IO[bytes], frames: list[tuple[int, int]]) -> None:
        """`frames`: lengths of each frame, packed and unpacked."""
        self._file = file
        self._packed, self._starts = [0], [0]
        for packed, unpacked in frames:
            self._packed.append(self._packed[-1] + packed)
            self._starts.append(self._starts[-1] + unpacked)
        self.size = self._starts[-1]
        self._recent: OrderedDict[int, bytes] = OrderedDict()

    def read_at(self, position: int, size: int) -> bytes:
        parts = []
        end = min(position + size, self.size)
        while position < end:
            number = bisect_right(self._starts, position) - 1
            start = position - self._starts[number]
            part = self._frame(number)[start : start + end - position]
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _frame(self, number: int) -> bytes:
        frame = self._recent.get(number)
        if frame is None:
            length = self._starts[number + 1] - self._starts[number]
            self._file.seek(self._packed[number])
            packed = self._file.read(self._packed[number + 1] - self._packed[number])
            try:
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(
                    packed, max_output_size=length
                )
            except zstandard.ZstdError as error:
                raise NotReadable("is damaged: it can't be unpacked") from error
            if len(frame) != length:
                raise NotReadable("is damaged: it can't be unpacked")
            self._recent[number] = frame
            if len(self._recent) > KEPT_FRAMES:
                self._recent.popitem(last=False)
        else:
            self._recent.move_to_end(number)
        return frame


def frames_of(file: IO[bytes]) -> list[tuple[int, int]] | None:
    """Lengths of the frames, packed and unpacked, by the table at the file's end; None without such a table.

    Its format is contrib/seekable_format/zstd_seekable_compression_format.md of Zstandard.
    """
    end = file.seek(0, os.SEEK_END)
    if end < 17:
        return None
    file.seek(end - 9)
    count, flags, magic = struct.unpack("<IBI", file.read(9))
    entry = 12 if flags & 0x80 else 8
    table = count * entry
    if magic != _SEEK_TABLE or not 0 < count <= FRAMES or end < 17 + table:
        return None
    file.seek(end - 17 - table)
    kind, length = struct.unpack("<II", file.read(8))
    if kind != _SKIPPABLE or length != table + 9:
        return None
    found = [
        (packed, unpacked) for packed, unpacked, *_ in struct.iter_unpack(f"<{entry // 4}I", file.read(table))
    ]
    fits = sum(packed for packed, _ in found) == end - 17 - table
    sane = all(0 < unpacked <= FRAME_BYTES for _, unpacked in found)
    return found if fits and sane and sum(u for _, u in found) <= UNPACKED_BYTES else None


class Forward:
    """Reads a compressed file forward, and limits its unpacked bytes."""

    def __init__(self, unpacked: Any) -> None:
        self._file = unpacked
        self._position = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises NotReadable."""
        self._position += size
        if self._position > UNPACKED_BYTES:
            raise NotReadable(f"is larger than {UNPACKED_BYTES >> 30} GiB when unpacked")
        parts, missing = [], size
        while missing:
            try:
                part = self._file.read(min(missing, 4 << 20))
            except (zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
                raise NotReadable("is damaged: it can't be unpacked") from error
            except EOFError as error:
                raise NotReadable("is cut off: its packed data ends early") from error
            if not part:
                raise NotReadable("is cut off: it ends in the middle of its data")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Leave out `size` bytes. Raises NotReadable."""
        while size:
            size -= len(self.read(min(size, 1 << 20)))


def open_source(file: IO[bytes]) -> Source | Forward:
    """Bytes of a .blend. Raises NotReadable if its first bytes are those of no .blend."""
    magic = file.read(7)
    file.seek(0)
    if magic == b"BLENDER":
        try:
            return PlainSource(file)
        except io.UnsupportedOperation:  # a file in memory
            return MemorySource(file.read())
    if magic[:2] == b"\x1f\x8b":
        return Forward(gzip.GzipFile(fileobj=file, mode="rb"))
    if magic[:4] == b"\x28\xb5\x2f\xfd" or magic[1:4] == b"\x2a\x4d\x18":
        frames = frames_of(file)
        if frames is not None:
            return FramedSource(file, frames)
        file.seek(0)
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return Forward(decompressor.stream_reader(file, read_across_frames=True))
    raise NotReadable("is empty" if not magic else "is not a .blend file")
