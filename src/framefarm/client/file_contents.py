"""Files whose content cannot be that which their name says: empty, a stand-in, a web page, cut off.

Blender takes a picture by its content and not by its name, so a JPEG named .png is a good file.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import IO

HEAD_BYTES = 512
_WEB_PAGE = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head)\b", re.I | re.S
)
_LFS = b"version https://git-lfs.github.com/spec/"
_TEXTS = frozenset((".txt", ".csv", ".html", ".htm", ".xml", ".svg", ".md", ".json", ".py"))

PICTURES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".exr",
        ".tif",
        ".tiff",
        ".webp",
        ".hdr",
        ".psd",
        ".psb",
        ".dds",
        ".jp2",
        ".j2c",
        ".bmp",
        ".dpx",
        ".cin",
        ".gif",
        ".rgb",
        ".sgi",
    ]
)
_PICTURE_MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|\x76\x2f\x31\x01|II[*+]\0|MM\0[*+]|RIFF....WEBP|8BPS|DDS |"
    rb"#\?(?:RADIANCE|RGBE)|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|BM|SDPX|XPDS|\x80\x2a\x5f\xd7|\xd7\x5f\x2a\x80|GIF8|\x01\xda|"
    rb"P[1-7]\s|\0\0\0.ftyp(?:avif|heic|mif1)|\0\0\0.JXL |\xff\x0a|<\?xml|<svg",
    re.S,
)
_MOVIE = rb"....(?:ftyp|moov|mdat|free|skip|wide|pnot|styp|uuid)|\x1a\x45\xdf\xa3|RIFF|\x47|\0\0\x01"
_MAGIC = {
    ".abc": (rb"Ogawa|\x89HDF", "an Alembic file"),
    ".vdb": (rb" BDV", "an OpenVDB file"),
    ".usda": (rb"#usda", "a USD file"),
    ".usdc": (rb"PXR-USDC", "a USD file"),
    ".usd": (rb"#usda|PXR-USDC|PK\x03\x04", "a USD file"),
    ".usdz": (rb"PK\x03\x04", "a USD package"),
    ".wav": (rb"RIFF|RF64|RIFX|BW64|riff|FORM|fLaC|OggS|ID3|\xff[\xe0-\xff]", "a sound"),
    ".flac": (rb"fLaC|ID3|OggS", "a sound"),
    ".ogg": (rb"OggS", "a sound"),
    ".mp4": (_MOVIE, "a movie"),
    ".mov": (_MOVIE, "a movie"),
    ".mkv": (rb"\x1a\x45\xdf\xa3", "a movie"),
    ".webm": (rb"\x1a\x45\xdf\xa3", "a movie"),
    ".avi": (rb"RIFF|ON2 |....ftyp|\x1a\x45\xdf\xa3", "a movie"),
    ".ttf": (rb"\0\x01\0\0|OTTO|true|ttcf|typ1|wOF[F2]", "a font"),
    ".otf": (rb"\0\x01\0\0|OTTO|true|ttcf|typ1|wOF[F2]", "a font"),
    ".ttc": (rb"\0\x01\0\0|OTTO|true|ttcf", "a font"),
    ".pc2": (rb"POINTCACHE2", "a point cache"),
    ".bphys": (rb"BPHYSICS", "a point cache"),
    ".blend": (rb"BLENDER|\x1f\x8b|\x28\xb5\x2f\xfd|.\x2a\x4d\x18", "a .blend"),
}  # fmt: skip
_MAGICS = {suffix: (re.compile(magic, re.S), what) for suffix, (magic, what) in _MAGIC.items()}


def fault(path: Path, *, of_any_kind: bool = True) -> str | None:
    """Why the file at `path` cannot be what its name says, as the rest of a sentence; None if it may be.

    Unless `of_any_kind`, files without a known kind of name may be empty or anything.
    """
    suffix = path.suffix.lower()
    if not of_any_kind and suffix not in PICTURES and suffix not in _MAGICS:
        return None
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _fault(file, file.read(HEAD_BYTES), size, suffix)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _fault(file: IO[bytes], head: bytes, size: int, suffix: str) -> str | None:
    if size == 0:
        return "is empty (0 bytes)"
    if head.startswith(_LFS):
        return "is a Git LFS pointer and not the file itself: run `git lfs pull`"
    if suffix not in _TEXTS and _WEB_PAGE.match(head):
        return "is an HTML page and not the file itself: download it again"
    if not head.strip(b"\0") and (suffix in PICTURES or suffix in _MAGICS):
        return f"begins with {len(head)} zero bytes: it was not written or not copied to its end"
    if suffix in PICTURES:
        if not _PICTURE_MAGIC.match(head):
            return None if _may_be_targa(head) else "is not a picture that Blender knows"
        return _cut_off(file, head, size)
    known = _MAGICS.get(suffix)
    if known is not None and not known[0].match(head):
        return f"is not {known[1]}"
    if suffix == ".abc" and head.startswith(b"Ogawa\0"):
        return "is cut off: it was not written to its end"
    if suffix in (".mp4", ".mov") and head[4:8] == b"ftyp" and not _has_index(file, size):
        return "is cut off: it has no index (moov)"
    if suffix == ".usdz" and not _has_zip_end(file, size):
        return "is cut off: its list of files is missing"
    return None


def _may_be_targa(head: bytes) -> bool:
    return (
        len(head) >= 18
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (8, 15, 16, 24, 32)
    )


def _cut_off(file: IO[bytes], head: bytes, size: int) -> str | None:
    """A sentence for a picture that ends before its data does; None for a whole one, or another format."""
    whole = True
    if head.startswith(b"\x89PNG"):
        whole = _whole_png(file, size)
    elif head.startswith(b"\xff\xd8"):
        whole = _whole_jpeg(file)
    elif head[:4] in (b"II*\0", b"MM\0*"):
        (first,) = struct.unpack("<I" if head[:1] == b"I" else ">I", head[4:8].ljust(4, b"\0"))
        whole = bool(first < size)
    elif head[:4] == b"RIFF":
        whole = bool(struct.unpack("<I", head[4:8].ljust(4, b"\0"))[0] <= size)
    return None if whole else "is cut off: the picture is not whole"


def _whole_png(file: IO[bytes], size: int) -> bool:
    position = 8
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        position += 12 + length
        if kind == b"IEND":
            return True
    return False


def _whole_jpeg(file: IO[bytes]) -> bool:
    """Whether the end mark follows the first scan. Marks of a thumbnail lie in the segments before it."""
    file.seek(2)
    while len(mark := file.read(2)) == 2 and mark[0] == 0xFF:
        if mark[1] == 0xFF:
            file.seek(-1, os.SEEK_CUR)
            continue
        length = file.read(2)
        if len(length) < 2:
            return False
        file.seek(int.from_bytes(length, "big") - 2, os.SEEK_CUR)
        if mark[1] == 0xDA:
            last = b""
            while part := file.read(1 << 20):
                if b"\xff\xd9" in last + part:
                    return True
                last = part[-1:]
            return False
    return len(mark) == 2  # an odd segment: whole as far as is known


def _has_index(file: IO[bytes], size: int) -> bool:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"moov":
            return True
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:
            return bool(length == 0 and kind != b"mdat")
        position += length
    return False


def _has_zip_end(file: IO[bytes], size: int) -> bool:
    file.seek(max(0, size - 66_000))
    return b"PK\x05\x06" in file.read()
