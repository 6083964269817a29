"""Reference: a path as a .blend stores it, with the files that it may stand for and who wants them. No
I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

from framefarm.core.path_matching import TILES

_TILE_NUMBER = re.compile(rb"1\d{3}(?=\D*\Z)")


@dataclass(frozen=True, slots=True)
class Reference:
    """A path in a .blend. `stored` is as written there (`//tex/wood.png`), in the bytes of the artist's
    system.

    `kind`: image, tiles, sequence, movie, library, font, sound, cache, volume, light, script or file."""

    stored: bytes
    kind: str
    wanted_by: str
    many: bool = False
    """It may stand for several files: a numbered sequence, a name with `*`, or all files of a folder."""
    tiles: tuple[int, ...] = ()
    """Numbers of the UDIM tiles that the scene uses, if it lists them."""
    required: bool = True
    """The picture is wrong without it; else it is sent if it exists, and not missed."""
    names: frozenset[bytes] = frozenset()
    """Of a library: the data-blocks that are linked from it, with their type codes (`OBChair`)."""


def rebased(stored: bytes, library: bytes) -> bytes:
    """`stored` as a path of the .blend that names the library: within it `//` is the library's own folder."""
    if not stored.startswith(b"//"):
        return stored
    folder = re.sub(rb"[^/\\]*\Z", b"", library)
    return (folder or b"//") + stored[2:]


def as_tiles(stored: bytes) -> bytes:
    """Path of a tiled image with Blender's mark for the tile's number, which files before 3.1 lack."""
    folder, slash, name = stored.rpartition(b"/")
    if any(token.encode() in name for token in TILES):
        return stored
    stem, dot, extension = name.rpartition(b".")
    if not dot:
        stem, extension = name, b""
    return folder + slash + _TILE_NUMBER.sub(b"<UDIM>", stem) + dot + extension
