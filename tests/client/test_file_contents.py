"""Files that are not what they seem, and good ones of each format, made by common libraries."""

from __future__ import annotations

import io
import struct
import wave
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from framefarm.client.file_contents import fault


def picture(kind: str, size: int = 64) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(out, kind)
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(100))
    return out.getvalue()


def package() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.usda", "#usda 1.0\n" * 50)
    return out.getvalue()


def boxes(*kinds: bytes) -> bytes:
    return b"".join(struct.pack(">I4s", 8 + 100, kind) + bytes(100) for kind in kinds)


PNG, JPEG, TIFF, WEBP = picture("PNG"), picture("JPEG"), picture("TIFF"), picture("WEBP")
GOOD = {
    "a.png": PNG,
    "a.PNG": PNG + b"what a program left behind",
    "jpeg named.png": JPEG,
    "a.jpg": JPEG,
    "of a phone.jpg": JPEG + bytes(100_000),
    "a.tif": TIFF,
    "a.webp": WEBP,
    "a.bmp": picture("BMP"),
    "a.tga": picture("TGA"),
    "targa named.png": picture("TGA"),
    "a.exr": b"\x76\x2f\x31\x01\x02\0\0\0",
    "a.hdr": b"#?RADIANCE\n",
    "a.wav": sound(),
    "a.mp4": boxes(b"ftyp", b"mdat", b"moov"),
    "fragmented.mp4": boxes(b"ftyp", b"moov", b"moof", b"mdat"),
    "a.usdz": package(),
    "a.usda": b"#usda 1.0\n",
    "a.usd": b"PXR-USDC\0",
    "a.abc": b"Ogawa\xff\0\1",
    "a.vdb": b" BDV\0\0\0\0",
    "notes.txt": b"<html> is a tag",
    "config.uni": bytes(600),
    "a.ies": b"IESNA:LM-63-1995\n",
    "a.mdd": bytes(8),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_not_doubted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD[name])
    assert fault(tmp_path / name) is None


BAD = {
    "a.png": (b"", "is empty"),
    "a.ies": (b"", "is empty"),
    "lfs.exr": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
    "page.jpg": (b"\n<!DOCTYPE html><html>", "HTML page"),
    "page.vdb": (b"\xef\xbb\xbf<html lang=en>", "HTML page"),
    "text.png": (b"this is not a picture", "not a picture"),
    "cut.png": (PNG[:-20], "cut off"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "cut off"),
    "cut.tif": (TIFF[:200], "cut off") if TIFF[4:8] != b"\x08\0\0\0" else (b"II*\0\xff\xff\0\0", "cut off"),
    "cut.webp": (WEBP[:-30], "cut off"),
    "zeros.png": (bytes(4096), "zero bytes"),
    "cut.mp4": (boxes(b"ftyp", b"mdat"), "no index"),
    "cut.usdz": (package()[:-40], "cut off"),
    "cut.abc": (b"Ogawa\0\0\1", "cut off"),
    "a.wav": (b"something else", "is not a sound"),
    "a.usdc": (b"#usda 1.0", "is not a USD file"),
    "a.vdb": (b"something else", "is not an OpenVDB file"),
    "a.ttf": (b"something else", "is not a font"),
    "a.blend": (b"something else", "is not a .blend"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_what_it_seems_is_told_with_the_reason(tmp_path: Path, name: str) -> None:
    content, why = BAD[name]
    (tmp_path / name).write_bytes(content)
    assert why in (fault(tmp_path / name) or "")


def test_an_empty_file_of_an_unknown_kind_is_no_fault_among_given_files(tmp_path: Path) -> None:
    (tmp_path / ".gitkeep").touch()
    (tmp_path / "a.png").touch()
    assert fault(tmp_path / ".gitkeep", of_any_kind=False) is None
    assert fault(tmp_path / "a.png", of_any_kind=False) == "is empty (0 bytes)"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert (fault(tmp_path / "gone.png") or "").startswith("cannot be read")
