"""Decoding pictures in the second sandbox: good ones, broken ones, bombs."""

from __future__ import annotations

import io
import os
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import psutil
import pytest
from decoder_harness import DecoderHarness, inspect
from PIL import Image

from framefarm.node import image_decoder
from framefarm.node.image_decoder import Picture, Undecodable
from framefarm.sandboxing.bubblewrap import Mode


def write(path: Path, values: np.ndarray, channels: tuple[str, ...] = (), kind: str = "uint8") -> Path:
    spec = oiio.ImageSpec(values.shape[1], values.shape[0], values.shape[2], kind)
    if channels:
        spec.channelnames = channels
    output = oiio.ImageOutput.create(str(path))
    assert output is not None and output.open(str(path), spec), oiio.geterror()
    assert output.write_image(np.ascontiguousarray(values.astype(np.float32)))
    output.close()
    return path


def gradient(width: int = 64, height: int = 36, channels: int = 3) -> np.ndarray:
    across = np.linspace(0, 1, width)[None, :, None]
    down = np.linspace(0, 1, height)[:, None, None]
    return np.broadcast_to(across * 0.7 + down * 0.3, (height, width, channels)).copy()


def decoded(path: Path) -> Picture:
    return drawn(path)[0]


def drawn(path: Path, mode: Mode = "bubblewrap") -> tuple[Picture, Image.Image]:
    found, webp = inspect(path, mode=mode)
    assert isinstance(found, Picture), found
    assert webp is not None
    small = Image.open(io.BytesIO(webp))
    assert small.format == "WEBP" and max(small.size) <= 480
    return found, small


def refused(path: Path) -> Undecodable:
    found, webp = inspect(path)
    assert webp is None
    assert isinstance(found, Undecodable), found
    assert found.message.endswith(".") and "\n" not in found.message
    return found


@pytest.mark.parametrize(
    ("name", "kind", "format_name"),
    [
        ("a.png", "uint8", "png"),
        ("b.png", "uint16", "png"),
        ("a.jpg", "uint8", "jpeg"),
        ("a.webp", "uint8", "webp"),
        ("a.tif", "uint16", "tiff"),
        ("a.exr", "half", "openexr"),
        ("b.exr", "float", "openexr"),
    ],
)
def test_each_kind_of_picture_is_decoded_and_measured(
    tmp_path: Path, name: str, kind: str, format_name: str
) -> None:
    staged = write(tmp_path / name, gradient(), kind=kind).rename(tmp_path / "7.0")  # staged: no ending
    found, small = drawn(staged)
    assert (found.format, found.width, found.height, found.channels) == (format_name, 64, 36, 3)
    assert (found.kind, found.parts) == (kind, 1)
    assert not (found.all_nan or found.some_nan or found.colour)
    assert small.size == (64, 36)
    assert small.getpixel((1, 1))[0] < small.getpixel((62, 34))[0]  # type: ignore[index]


@pytest.mark.parametrize("mode", ["bubblewrap", "none"])
def test_a_large_picture_has_a_small_thumbnail(tmp_path: Path, mode: Mode) -> None:
    _, small = drawn(write(tmp_path / "a.png", gradient(1921, 1080)), mode)
    assert small.size == (384, 216)
    assert small.getpixel((1, 1))[0] < small.getpixel((382, 214))[0]  # type: ignore[index]


def test_a_tall_picture_has_a_small_thumbnail(tmp_path: Path) -> None:
    assert drawn(write(tmp_path / "a.exr", gradient(300, 4000), kind="half"))[1].size == (33, 444)


def test_high_dynamic_range_is_tone_mapped(tmp_path: Path) -> None:
    values = np.full((20, 30, 3), 0.18)
    values[:, 15:] = 40.0
    values[10:, :15] = np.nan
    _, small = drawn(write(tmp_path / "a.exr", values, kind="half"))
    grey, bright, nothing = (small.convert("L").getpixel(at) for at in ((5, 3), (22, 10), (5, 16)))
    assert abs(grey - 118) < 6 and bright > 250 and nothing < 6  # type: ignore[operator]


def test_a_multilayer_exr_is_judged_by_its_combined_pass(tmp_path: Path) -> None:
    names = tuple(f"ViewLayer.{layer}.{c}" for layer in ("Combined", "Normal") for c in "RGBA")
    values = np.zeros((20, 30, 8))
    values[:, :, 4:] = gradient(30, 20, 4)
    found = decoded(write(tmp_path / "a.exr", values, names, "half"))
    assert (found.channels, found.colour) == (8, (0, 0, 0))


def test_nan_and_single_colours_are_reported(tmp_path: Path) -> None:
    nan = decoded(write(tmp_path / "nan.exr", np.full((9, 9, 3), np.nan), kind="float"))
    assert (nan.all_nan, nan.some_nan, nan.colour) == (True, True, None)
    one = gradient()
    one[3, 3, 1] = np.nan
    assert decoded(write(tmp_path / "one.exr", one, kind="float")).some_nan
    grey = decoded(write(tmp_path / "grey.png", np.full((9, 9, 3), 0.5)))
    assert grey.colour == pytest.approx((0.5, 0.5, 0.5), abs=0.01)
    black = decoded(write(tmp_path / "black.png", np.zeros((9, 9, 3))))
    assert (black.colour, black.some_nan) == ((0, 0, 0), False)
    endless = decoded(write(tmp_path / "inf.exr", np.full((9, 9, 3), np.inf), kind="float"))
    assert endless.colour == (65504, 65504, 65504)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.exr"])
def test_a_truncated_picture_is_a_result_with_a_sentence(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(7)
    whole = write(tmp_path / name, rng.random((120, 160, 3)), kind="half" if name == "a.exr" else "uint8")
    content = whole.read_bytes()
    for share in (0.1, 0.6):
        whole.write_bytes(content[: int(len(content) * share)])
        assert refused(whole).cause in {"picture_damaged", "not_a_picture"}


def test_other_files_are_not_pictures(tmp_path: Path) -> None:
    for content in (b"", b"no picture", b"BLENDER-v402" + bytes(4096), os.urandom(100_000)):
        (tmp_path / "x").write_bytes(content)
        assert refused(tmp_path / "x").cause == "not_a_picture"


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_of_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(png(60_000, 60_000, zlib.compress(bytes(1 << 20))))
    assert refused(tmp_path / "bomb").cause in {"picture_too_large", "picture_damaged"}
    wide = write(tmp_path / "wide.exr", np.zeros((2, 3, 3)), kind="half")
    content = wide.read_bytes()
    window = struct.pack("<4i", 0, 0, 2, 1)
    assert content.count(window) == 2
    wide.write_bytes(content.replace(window, struct.pack("<4i", 0, 0, 59_999, 59_999)))
    assert refused(wide).cause in {"picture_too_large", "picture_damaged"}


def test_a_bomb_within_the_pixels_is_decoded_in_bounded_memory(tmp_path: Path) -> None:
    """2^26 black pixels, unpacked 200 MB, in 200 kB."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + 3 * 8192)) for _ in range(8192)) + packer.flush()
    (tmp_path / "bomb").write_bytes(png(8192, 8192, data))
    assert decoded(tmp_path / "bomb").colour == (0, 0, 0)


def test_a_decoder_that_runs_out_of_memory_or_time_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = write(tmp_path / "a.png", gradient(4000, 3000))
    monkeypatch.setattr(image_decoder, "MEMORY_BYTES", 300 << 20)
    assert refused(picture).cause in {"decoder_died", "picture_too_large"}
    began = time.monotonic()
    found, _ = inspect(picture, seconds=0.01)
    assert isinstance(found, Undecodable) and found.cause == "decoder_died"
    assert time.monotonic() - began < 10


def test_decoder_killed_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    picture = write(tmp_path / "a.png", gradient(2000, 1500))
    harness = DecoderHarness(tmp_path / "decoder")
    decoder = harness.decoder
    try:
        names = [decoder.request(n, picture, thumbnail=True) for n in range(6)]
        assert isinstance(decoder.result(names[0]), Picture)
        killed = decoder.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert all(isinstance(decoder.result(name), Picture) for name in names[1:])
        harness.wait(5)  # at most the thumbnail of the first waits for the next picture
        assert decoder.pid not in {None, killed}
        psutil.Process(decoder.pid).kill()
        last = decoder.request(6, picture, thumbnail=True)
        assert isinstance(decoder.result(last), Picture)
    finally:
        decoder.finish(60)
    assert sorted(harness.drawn) == list(range(7))
    assert not (tmp_path / "decoder").exists()


def test_decoder_died_of_a_picture_twice_and_the_next_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is frozen, since no shipped library crashes on demand."""
    whole = write(tmp_path / "a.png", gradient())
    harness = DecoderHarness(tmp_path / "decoder", seconds=0.5)
    decoder = harness.decoder
    try:
        assert isinstance(decoder.result(decoder.request(1, whole)), Picture | Undecodable)
        assert decoder.pid is not None
        inner = psutil.Process(decoder.pid).children(recursive=True)[-1]
        inner.suspend()
        found = decoder.result(decoder.request(2, whole))
        assert isinstance(found, Undecodable) and found.cause == "decoder_died"
        decoder._seconds = 60
        assert isinstance(decoder.result(decoder.request(3, whole)), Picture)
        assert not inner.is_running()
    finally:
        decoder.finish(0)


def test_damaged_bytes_never_raise(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for name, kind in (("a.exr", "half"), ("a.tif", "uint16"), ("a.webp", "uint8"), ("a.jpg", "uint8")):
        content = bytearray(write(tmp_path / name, rng.random((40, 50, 3)), kind=kind).read_bytes())
        for _ in range(4):
            for position in rng.integers(0, len(content), 30):
                content[position] = int(rng.integers(0, 256))
            (tmp_path / "x").write_bytes(content)
            found, _ = inspect(tmp_path / "x")
            assert isinstance(found, (Picture, Undecodable))


def test_a_dithered_picture_of_one_colour_has_one_colour(tmp_path: Path) -> None:
    """As Blender writes it by default; a float picture is not dithered, and told apart to the last bit."""
    dither = np.random.default_rng(1).integers(0, 3, (36, 64, 3)) / 255
    black = decoded(write(tmp_path / "black.png", dither))
    assert black.colour == pytest.approx((1 / 255,) * 3, abs=1e-5)
    assert decoded(write(tmp_path / "dark.png", dither * 2)).colour is None
    assert decoded(write(tmp_path / "dark.exr", dither, kind="half")).colour is None
