"""The image decoder's process: `python -m framefarm.node.image_decoder_process`, run by `image_decoder.py`.

It decodes strip by strip, so that its memory does not grow with the picture. Each request is a line of JSON,
`{"name": file in the folder, "thumbnail": pixels or 0}`. The reply comes as soon as the picture is decoded;
its thumbnail follows later, in a line of its own.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import OpenImageIO as oiio

from framefarm.sandboxing import module_entry

STRIP_BYTES = 64 << 20
FORMATS = frozenset(
    ("png", "jpeg", "webp", "tiff", "openexr", "bmp", "targa", "dpx", "cineon", "hdr", "jpeg2000", "sgi")
)
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"v/1\x01")
LINEAR = frozenset(("openexr", "hdr"))
FLOATING = frozenset(("half", "float", "double"))
DITHER = 2.5 / 255
"""On a scale of 0 to 1. Blender's dither moves a value by at most one 8-bit step to either side."""
SHOULDER = 0.8
"""Linear values above it are compressed in thumbnails."""
NICE = 10
MAX_WAITING_THUMBNAILS = 32
"""Decoding pauses while so many thumbnails wait."""
REPLY_LOCK = threading.Lock()


class NotDecoded(Exception):
    """`cause` as in `image_decoder.Undecodable`; the text is its message."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def main() -> None:
    order = module_entry.begin()
    os.nice(NICE)
    oiio.attribute("threads", 1)
    oiio.attribute("exr_threads", -1)
    oiio.attribute("limits:imagesize_MB", 0)
    oiio.attribute("limits:channels", order["max_channels"])
    to_draw: queue.Queue[tuple[str, PictureScan]] = queue.Queue(MAX_WAITING_THUMBNAILS)
    threading.Thread(target=_draw_thumbnails, args=(to_draw, order["in_tmp"]), daemon=True).start()
    with os.fdopen(order["questions"], "rb") as requests:
        for line in requests:
            request = json.loads(line)
            scan = None
            try:
                reply, scan = decode(order, request)
            except NotDecoded as error:
                reply = {"cause": error.cause, "message": str(error)}
            except MemoryError:
                reply = {"cause": "picture_too_large", "message": "Decoding it needs too much memory."}
            _reply({"name": request["name"]} | reply)
            if scan is not None and scan.thumbnail_pixels:
                to_draw.put((request["name"], scan))
    os._exit(0)


def _draw_thumbnails(to_draw: queue.Queue[tuple[str, PictureScan]], in_tmp: bool) -> None:
    """Draw at the lowest priority of the node."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    while True:
        name, scan = to_draw.get()
        try:
            webp = base64.b64encode(_webp(scan.thumbnail(), in_tmp)).decode()
        except MemoryError:
            webp = ""
        _reply({"name": name, "thumbnail": webp})


def _reply(reply: dict[str, Any]) -> None:
    with REPLY_LOCK:
        module_entry.answer(json.dumps(reply))


def decode(order: dict[str, Any], request: dict[str, Any]) -> tuple[dict[str, Any], PictureScan]:
    """(the reply, the scan to draw a thumbnail from). Raises NotDecoded or MemoryError."""
    path = f"{order['folder']}/{request['name']}"
    source = oiio.ImageInput.open(path)
    with open(path, "rb") as stream:
        head = stream.read(16)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 2))
        tail = stream.read(2)
    if source is None and head.startswith(SIGNATURES):
        raise NotDecoded("picture_damaged", f"The picture can't be opened: {_words(oiio.geterror())}.")
    if source is None or source.format_name() not in FORMATS:
        raise NotDecoded("not_a_picture", "The file has none of the picture formats that Blender writes.")
    if source.format_name() == "jpeg" and tail != b"\xff\xd9":  # the library would invent the missing part
        raise NotDecoded("picture_damaged", "The picture is damaged: it ends too early.")
    first = source.spec()
    linear = source.format_name() in LINEAR
    scan = PictureScan(first.width, first.height, request["thumbnail"], linear)
    samples = 0
    part = 0
    while source.seek_subimage(part, 0):
        spec = source.spec()
        samples += _check_size(spec, part, order)
        if samples > order["max_samples"]:
            raise NotDecoded("picture_too_large", "The picture's layers are too large together.")
        colours = _colours(spec.channelnames) if part == 0 else []
        for top, strip in _strips(source, spec, part):
            if part == 0:
                scan.add(top, _select(strip, colours), str(spec.format) in FLOATING)
        part += 1
    if part < max(1, first.get_int_attribute("oiio:subimages", 1)):
        raise NotDecoded("picture_damaged", f"The picture is damaged: {_words(source.geterror())}.")
    source.geterror()  # clears the error that some formats leave at the end of the parts
    picture = {
        "format": source.format_name(),
        "width": first.width,
        "height": first.height,
        "channels": first.nchannels,
        "parts": part,
        "kind": str(first.format),
        "all_nan": scan.all_nan,
        "some_nan": scan.some_nan,
        "colour": scan.colour,
    }
    source.close()
    return {"picture": picture}, scan


def _check_size(spec: Any, part: int, order: dict[str, Any]) -> int:
    """The number of samples of the part. Raises NotDecoded."""
    if part >= order["max_parts"]:
        raise NotDecoded("picture_too_large", f"The picture has more than {order['max_parts']} parts.")
    if spec.nchannels > order["max_channels"]:
        raise NotDecoded("picture_too_large", f"The picture has {spec.nchannels} channels.")
    if spec.deep or spec.depth > 1:
        raise NotDecoded("not_a_picture", "Deep and volumetric pictures cannot be checked.")
    pixels = spec.width * spec.height
    if not 0 < pixels <= order["max_pixels"]:
        raise NotDecoded("picture_too_large", f"The picture has {spec.width} × {spec.height} pixels.")
    return int(pixels * spec.nchannels)


def _strips(source: Any, spec: Any, part: int) -> Iterator[tuple[int, Any]]:
    """All samples of the part, as (number of the first row, from 0; floats of rows × columns × channels)."""
    row_bytes = spec.width * spec.nchannels * 4
    rows = max(1, STRIP_BYTES // row_bytes)
    if spec.tile_width:
        rows = max(spec.tile_height, rows // spec.tile_height * spec.tile_height)
    elif source.format_name() == "openexr":
        rows = -(-rows // 256) * 256 if rows > 256 else rows
    if rows * row_bytes > 16 * STRIP_BYTES:
        raise NotDecoded("picture_too_large", "A row of the picture's tiles is too large.")
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
            raise NotDecoded("picture_damaged", f"The picture is damaged: {_words(source.geterror())}.")
        yield top - spec.y, strip.reshape(bottom - top, spec.width, spec.nchannels)


def _colours(names: tuple[str, ...]) -> list[int]:
    """The channels to scan: R, G and B of a combined pass, else of any pass, else the first channels."""
    for prefix in dict.fromkeys(n[:-1] for n in sorted(names, key=lambda n: "Combined." not in n)):
        if all(prefix + colour in names for colour in "RGB"):
            return [names.index(prefix + colour) for colour in "RGB"]
    return [0, 1, 2] if len(names) >= 3 else [0]


def _select(strip: Any, channels: list[int]) -> Any:
    """These channels of the strip, without a copy if they are the first ones."""
    if channels == list(range(len(channels))):
        return strip[:, :, : len(channels)]
    return strip[:, :, channels]


def _sampled(size: int, factor: int) -> tuple[int, ...]:
    """Offsets of the sampled pixels within `factor` pixels, along a side of `size` pixels."""
    if factor < 4 or size < factor:
        return tuple(range(min(size, factor)))
    return factor // 4, 3 * factor // 4


@dataclass
class PictureScan:
    """Colours of a picture, gathered strip by strip: whether they are NaN, all alike, and the thumbnail."""

    width: int
    height: int
    thumbnail_pixels: int
    """Maximum width and height of the thumbnail; 0: no thumbnail."""
    linear: bool
    """The values are scene-linear, and have to be tone-mapped for the thumbnail."""
    all_nan: bool = True
    some_nan: bool = False
    _equal: bool = True
    _low: Any = None
    _high: Any = None
    _sums: Any = None
    _counts: Any = field(default=None)

    def add(self, top: int, colours: Any, floating: bool) -> None:
        """Add the rows from `top` on (rows × columns × channels); `floating`: the file stores floats."""
        if floating and not np.isfinite(colours.sum()):
            nan = np.isnan(colours)
            self.all_nan = self.all_nan and bool(nan.all())
            self.some_nan = self.some_nan or bool(nan.any())
        else:
            self.all_nan = False
        # One row first: enough to find several colours in most pictures.
        self._compare_colours(colours[:1], floating)
        self._compare_colours(colours, floating)
        if self.thumbnail_pixels:
            self._shrink(top, colours, floating)

    def _compare_colours(self, colours: Any, floating: bool) -> None:
        """Values within the dither count as equal, except in float files: Blender dithers 8 and 16 bits."""
        if not self._equal:
            return
        low, high = colours.min(axis=(0, 1)), colours.max(axis=(0, 1))
        if self._low is not None:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = low, high
        self._equal = bool((high == low).all() if floating else (high - low <= DITHER).all())

    @property
    def colour(self) -> list[float] | None:
        """The one colour of all pixels; None if there are several."""
        if not self._equal:
            return None
        return [round(float(v), 6) for v in np.clip((self._low + self._high) / 2, -65504.0, 65504.0)]

    def _shrink(self, top: int, colours: Any, floating: bool) -> None:
        """Add the mean of each square of `factor` pixels, of four samples in a large square. Incomplete
        squares at the right and the bottom are dropped where there is a complete one beside them."""
        factor = -(-max(self.width, self.height) // self.thumbnail_pixels)
        across, down = max(1, self.width // factor), max(1, self.height // factor)
        rows = top + np.arange(colours.shape[0])
        rows = rows[np.isin(rows % factor, _sampled(self.height, factor)) & (rows < down * factor)]
        if not rows.size:
            return
        offsets = np.array(_sampled(self.width, factor))
        columns = (np.arange(across)[:, None] * factor + offsets).ravel()
        values = colours[rows - top][:, columns]
        if floating:
            values = np.nan_to_num(values, nan=0.0, posinf=65504.0, neginf=0.0)
        values = values.reshape(rows.size, across, offsets.size, -1).mean(axis=2)
        targets, starts, counts = np.unique(rows // factor, return_index=True, return_counts=True)
        if self._sums is None:
            self._sums = np.zeros((down, across, values.shape[2]))
            self._counts = np.zeros((down, 1, 1))
        self._sums[targets] += np.add.reduceat(values, starts, axis=0)
        self._counts[targets] += counts[:, None, None]

    def thumbnail(self) -> Any:
        """The thumbnail in sRGB: rows × columns × 3, 8 bits."""
        picture = self._sums / self._counts
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
    spec.attribute("webp:method", 2)  # a quarter of the time, hardly a byte more
    output = oiio.ImageOutput.create("webp")
    if output is None or not output.open(path, spec) or not output.write_image(np.ascontiguousarray(pixels)):
        return b""
    output.close()
    with open(path, "rb") as stream:
        webp = stream.read()
    if descriptor >= 0:
        os.close(descriptor)
    return webp


def _words(error: str) -> str:
    """The library's own message: one line, printable, at most 200 characters."""
    line = " ".join(error.split())
    return "".join(c for c in line if c.isprintable())[:200].rstrip(".") or "it ends too early"


if __name__ == "__main__":
    main()
