"""Comparison of two folders of pictures: names, sizes, channels, and every pixel as it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import OpenImageIO as oiio


def files_of(folder: Path) -> list[str]:
    """The relative paths of all files below `folder`, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def differences(right: Path, farm: Path, names: list[tuple[str, str]], tolerance: float) -> Iterator[str]:
    """A sentence for each pair of `names` (in `right`, in `farm`) whose pictures differ too much."""
    for one, other in names:
        if (found := unlike(right / one, farm / other, tolerance)) is not None:
            yield f"{other}: {found}"


def empty(folder: Path, names: list[str]) -> str:
    """The first picture that is wholly black, or magenta as without a texture; else an empty text."""
    for name in names:
        picture = oiio.ImageInput.open(str(folder / name))
        pixels = picture.read_image("float") if picture is not None else None
        if pixels is not None:
            colours = pixels[..., :3].reshape(-1, min(3, pixels.shape[-1]))
            if not colours.any() or (colours.shape[-1] == 3 and np.allclose(colours, (1, 0, 1))):
                return name
    return ""


def unlike(right: Path, farm: Path, tolerance: float = 0.0) -> str | None:
    """How the picture of the farm differs from the right one, in words; None if it does not."""
    ours, theirs = oiio.ImageInput.open(str(right)), oiio.ImageInput.open(str(farm))
    if ours is None or theirs is None:
        return None if right.read_bytes() == farm.read_bytes() else "cannot be decoded, and other bytes"
    part = 0
    while True:
        here, there = ours.seek_subimage(part, 0), theirs.seek_subimage(part, 0)
        if not here and not there:
            return None
        where = f"part {part}: " if part else ""
        if here != there:
            return f"{where}only one of both has it"
        a, b = ours.spec(), theirs.spec()
        if (a.width, a.height) != (b.width, b.height):
            return f"{where}{b.width}×{b.height} pixels, not {a.width}×{a.height}"
        if list(a.channelnames) != list(b.channelnames):
            return f"{where}channels {', '.join(b.channelnames)}, not {', '.join(a.channelnames)}"
        if str(a.format) != str(b.format):
            return f"{where}{b.format} pixels, not {a.format}"
        one, other = (
            ours.read_image(part, 0, 0, a.nchannels, "float"),
            theirs.read_image(part, 0, 0, a.nchannels, "float"),
        )
        if one is None or other is None:
            return f"{where}cannot be read"
        away = np.abs(np.nan_to_num(one) - np.nan_to_num(other))
        if float(away.max(initial=0.0)) > tolerance:
            count = int((away.max(axis=-1) > tolerance).sum())
            return f"{where}{count} of {a.width * a.height} pixels differ, by up to {away.max():.4g}"
        part += 1
