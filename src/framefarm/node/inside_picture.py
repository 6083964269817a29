"""Decodes one picture: `python -m framefarm.node.inside_picture`, shut in (see `pictures.py`).

It works strip by strip, so that its memory does not grow with the picture, and answers one line of JSON.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import OpenImageIO as oiio

from framefarm.sandboxing import inside

STRIP_BYTES = 64 << 20
FORMATS = frozenset(
    ("png", "jpeg", "webp", "tiff", "openexr", "bmp", "targa", "dpx", "cineon", "hdr", "jpeg2000", "sgi")
)
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"v/1\x01")
LINEAR = frozenset(("openexr", "hdr"))
BLACK = 1e-6
SHOULDER = 0.8


class Refused(Exception):
    """`cause` as in `pictures.Undecodable`."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def main() -> None:
    order = inside.begin()
    os.nice(10)
    oiio.attribute("threads", 1)
    oiio.attribute("exr_threads", -1)
    oiio.attribute("limits:imagesize_MB", 0)
    oiio.attribute("limits:channels", order["max_channels"])
    try:
        found = decode(order)
    except Refused as error:
        found = {"cause": error.cause, "message": str(error)}
    except MemoryError:
        error = Refused("picture_too_large", "Decoding the picture needs too much memory.")
        found = {"cause": error.cause, "message": str(error)}
    inside.answer(json.dumps(found))
    os._exit(0)


def decode(order: dict[str, Any]) -> dict[str, Any]:
    source = oiio.ImageInput.open(order["path"])
    with open(order["path"], "rb") as stream:
        head = stream.read(16)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 2))
        tail = stream.read(2)
    if source is None and head.startswith(SIGNATURES):
        raise Refused("picture_damaged", f"The picture can't be opened: {_words(oiio.geterror())}.")
    if source is None or source.format_name() not in FORMATS:
        raise Refused("not_a_picture", "The file is none of the kinds of picture that Blender writes.")
    if source.format_name() == "jpeg" and tail != b"\xff\xd9":  # the decoder would make up what is missing
        raise Refused("picture_damaged", "The picture is damaged: it ends too early.")
    first = source.spec()
    linear = source.format_name() in LINEAR
    look = Look(first.width, first.height, order["thumbnail"], linear)
    samples = 0
    part = 0
    while source.seek_subimage(part, 0):
        spec = source.spec()
        samples += _check(spec, part, order)
        if samples > order["max_samples"]:
            raise Refused("picture_too_large", "The picture's layers are too large together.")
        colours = _colours(spec.channelnames) if part == 0 else []
        for top, strip in _strips(source, spec, part):
            if part == 0:
                look.take(top, strip[:, :, colours])
        part += 1
    if part < max(1, first.get_int_attribute("oiio:subimages", 1)):
        raise Refused("picture_damaged", f"The picture is damaged: {_words(source.geterror())}.")
    source.geterror()  # some kinds only know that there is no further part by failing to find it
    thumbnail = _webp(look.small(), order["in_tmp"]) if order["thumbnail"] else b""
    return {
        "picture": {
            "format": source.format_name(),
            "width": first.width,
            "height": first.height,
            "channels": first.nchannels,
            "parts": part,
            "kind": str(first.format),
            "all_nan": look.all_nan,
            "some_nan": look.some_nan,
            "all_equal": look.all_equal,
            "all_black": look.all_black,
        },
        "thumbnail": base64.b64encode(thumbnail).decode(),
    }


def _check(spec: Any, part: int, order: dict[str, Any]) -> int:
    """How many samples the part has."""
    if part >= order["max_parts"]:
        raise Refused("picture_too_large", f"The picture has more than {order['max_parts']} parts.")
    if spec.nchannels > order["max_channels"]:
        raise Refused("picture_too_large", f"The picture has {spec.nchannels} channels.")
    if spec.deep or spec.depth > 1:
        raise Refused("not_a_picture", "Deep and volumetric pictures are not looked into.")
    pixels = spec.width * spec.height
    if not 0 < pixels <= order["max_pixels"]:
        raise Refused("picture_too_large", f"The picture has {spec.width} × {spec.height} pixels.")
    return int(pixels * spec.nchannels)


def _strips(source: Any, spec: Any, part: int):
    """Every sample of the part: the number of the first row (from 0), and rows × columns × channels."""
    row_bytes = spec.width * spec.nchannels * 4
    rows = max(1, STRIP_BYTES // row_bytes)
    if spec.tile_width:
        rows = max(spec.tile_height, rows // spec.tile_height * spec.tile_height)
    elif source.format_name() == "openexr":
        rows = -(-rows // 256) * 256 if rows > 256 else rows
    if rows * row_bytes > 16 * STRIP_BYTES:
        raise Refused("picture_too_large", "A row of the picture's tiles is too large.")
    end = spec.y + spec.height
    for top in range(spec.y, end, rows):
        bottom = min(end, top + rows)
        if spec.tile_width:
            right = spec.x + spec.width
            strip = source.read_tiles(
                part, 0, spec.x, right, top, bottom, spec.z, spec.z + 1, 0, spec.nchannels, "float"
            )
        else:
            strip = source.read_scanlines(part, 0, top, bottom, spec.z, 0, spec.nchannels, "float")
        if strip is None:
            raise Refused("picture_damaged", f"The picture is damaged: {_words(source.geterror())}.")
        yield top - spec.y, strip.reshape(bottom - top, spec.width, spec.nchannels)


def _colours(names: tuple[str, ...]) -> list[int]:
    """Which channels are the colours: R, G and B, of a combined pass, else of any; else the first ones."""
    for stem in dict.fromkeys(n[:-1] for n in sorted(names, key=lambda n: "Combined." not in n)):
        if all(stem + colour in names for colour in "RGB"):
            return [names.index(stem + colour) for colour in "RGB"]
    return [0, 1, 2] if len(names) >= 3 else [0]


@dataclass
class Look:
    """What the colours of a picture are like, strip by strip."""

    width: int
    height: int
    most: int
    linear: bool
    all_nan: bool = True
    some_nan: bool = False
    all_equal: bool = True
    all_black: bool = True
    _first: Any = None
    _sums: dict[int, Any] = field(default_factory=dict)

    def take(self, top: int, colours: Any) -> None:
        nan = np.isnan(colours)
        self.all_nan = self.all_nan and bool(nan.all())
        self.some_nan = self.some_nan or bool(nan.any())
        if self._first is None:
            self._first = colours[0, 0].copy()
        self.all_equal = self.all_equal and bool((colours == self._first).all())
        self.all_black = self.all_black and bool((np.abs(colours) <= BLACK).all())
        if self.most:
            self._shrink(top, colours)

    def _shrink(self, top: int, colours: Any) -> None:
        """The mean of each square of `factor` pixels; what is left at the right and the bottom is dropped
        where there is a whole square beside it."""
        factor = -(-max(self.width, self.height) // self.most)
        values = np.nan_to_num(colours, nan=0.0, posinf=65504.0, neginf=0.0)
        across = max(1, self.width // factor)
        square = min(factor, self.width)
        values = values[:, : across * square].reshape(values.shape[0], across, square, -1).mean(axis=2)
        for row in range(values.shape[0]):
            target = min((top + row) // factor, max(1, self.height // factor) - 1)
            total, count = self._sums.get(target, (0.0, 0))
            self._sums[target] = (total + values[row], count + 1)

    def small(self) -> Any:
        """Rows × columns × 3, 8 bits, for a screen."""
        picture = np.stack([self._sums[row][0] / self._sums[row][1] for row in sorted(self._sums)])
        if picture.shape[2] == 1:
            picture = np.repeat(picture, 3, axis=2)
        if self.linear:
            picture = np.maximum(picture, 0.0)
            bright = SHOULDER + (1 - SHOULDER) * (1 - np.exp(-(picture - SHOULDER) / (1 - SHOULDER)))
            picture = np.where(picture <= SHOULDER, picture, bright)
            picture = np.where(picture <= 0.0031308, picture * 12.92, 1.055 * picture ** (1 / 2.4) - 0.055)
        return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _webp(pixels: Any, in_tmp: bool) -> bytes:
    path, descriptor = "/tmp/thumbnail.webp", -1  # noqa: S108
    if not in_tmp:
        descriptor = os.memfd_create("thumbnail")
        path = f"/proc/self/fd/{descriptor}"
    spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], 3, "uint8")
    spec.attribute("compression", "webp:80")
    output = oiio.ImageOutput.create("webp")
    if output is None or not output.open(path, spec) or not output.write_image(np.ascontiguousarray(pixels)):
        return b""
    output.close()
    with open(path, "rb") as stream:
        return stream.read()


def _words(error: str) -> str:
    """The library's own sentence, for a person: one line, printable, short."""
    line = " ".join(error.split())
    return "".join(c for c in line if c.isprintable())[:200].rstrip(".") or "it ends too early"


if __name__ == "__main__":
    main()
