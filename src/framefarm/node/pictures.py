"""Is this a picture, and what is on it? Decoded in the second sandbox: the bytes are hostile.

Never raises for what is in the file: a decoder that dies is a result.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from framefarm.sandboxing import python
from framefarm.sandboxing.box import Bind, Mode

MAX_PIXELS = 1 << 28
MAX_CHANNELS = 1024
MAX_PARTS = 256
MAX_SAMPLES = 1 << 33
"""Pixels times channels, all parts together."""
MEMORY_BYTES = 4 << 30
THUMBNAIL_PIXELS = 480
THUMBNAIL_BYTES = 1 << 20
SECONDS = 120.0


class Picture(msgspec.Struct, frozen=True):
    """A picture that was decoded whole. What is said of its values is said of the colours (red, green, blue)
    of its first part; of a multilayer EXR, of the first combined pass.

    `format` is OpenImageIO's name (`png`, `jpeg`, `webp`, `tiff`, `openexr`, …), `kind` that of its samples
    (`uint8`, `uint16`, `half`, `float`, …).
    """

    format: str
    width: int
    height: int
    channels: int
    parts: int
    kind: str
    all_nan: bool
    some_nan: bool
    all_equal: bool
    """Each colour has the same value everywhere."""
    all_black: bool
    thumbnail: bytes | None = None
    """WebP, at most 480 pixels wide and high; high dynamic range is tone-mapped."""


@dataclass(frozen=True)
class Undecodable:
    """`cause`: `not_a_picture`, `picture_damaged`, `picture_too_large` or `decoder_died`; one sentence."""

    cause: str
    message: str


class _Found(msgspec.Struct):
    cause: str = ""
    message: str = ""
    picture: Picture | None = None
    thumbnail: str = ""


def inspect(
    path: Path, *, thumbnail: bool = False, mode: Mode = "bubblewrap", seconds: float = SECONDS
) -> Picture | Undecodable:
    """Decode `path` (a file of the runner's own) whole; blocks, at low priority.

    Raises OSError if the file can't be opened, SandboxUnavailable as `run_module` does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        shut_in = mode == "bubblewrap"
        order = {
            "path": "/in/picture" if shut_in else f"/proc/self/fd/{descriptor}",
            "thumbnail": (THUMBNAIL_PIXELS if thumbnail else 0),
            "in_tmp": shut_in,
            "max_pixels": MAX_PIXELS,
            "max_channels": MAX_CHANNELS,
            "max_parts": MAX_PARTS,
            "max_samples": MAX_SAMPLES,
        }
        answer = python.run_module(
            "framefarm.node.inside_picture",
            order,
            [descriptor],
            seconds=seconds,
            cpu_seconds=int(seconds),
            memory_bytes=MEMORY_BYTES,
            answer_bytes=2 * THUMBNAIL_BYTES,
            mode=mode,
            binds=[Bind(os.path.abspath(path), "/in/picture")],
            open_files=64,
            file_bytes=THUMBNAIL_BYTES,
        )
    finally:
        os.close(descriptor)
    if not answer.in_time:
        return Undecodable("decoder_died", f"The picture was not decoded within {seconds:.0f} s.")
    try:
        found = msgspec.json.decode(answer.output, type=_Found)
        drawn = base64.b64decode(found.thumbnail, validate=True) or None
    except (msgspec.DecodeError, ValueError):
        return Undecodable("decoder_died", f"The program that decodes pictures died of it ({answer.code}).")
    if found.picture is None:
        return Undecodable(found.cause[:64], found.message[:500])
    return msgspec.structs.replace(found.picture, thumbnail=drawn)
