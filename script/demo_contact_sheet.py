"""Check a folder of frames, and write them as one contact sheet with labels.

    PYTHON script/demo_contact_sheet.py FRAMES_DIR OUT.png --stem STEM --frames 1-8 --size 480x270

PYTHON needs Pillow. Every expected `STEM_NNNN.png` must exist, decode completely and have the given size;
otherwise each problem is printed on a line, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLUMNS = 4
GAP = 14
HEADER = 54
LABEL = 24
BACKGROUND, INK, QUIET = (24, 26, 31), (235, 230, 220), (150, 152, 158)


def load(path: Path, size: tuple[int, int]) -> Image.Image:
    """A picture, decoded. Raises ValueError if it is missing, damaged or of another size in pixels."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        with Image.open(path) as picture:
            picture.load()
            decoded = picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture that can be decoded: {error}") from error
    if decoded.size != size:
        raise ValueError(f"{path} has {decoded.size[0]}x{decoded.size[1]} pixels, not {size[0]}x{size[1]}")
    return decoded


def contact_sheet(pictures: list[tuple[int, Image.Image]], title: str) -> Image.Image:
    """One picture of all frames, in rows of `COLUMNS`. `pictures`: frame numbers, pictures of one size."""
    width, height = pictures[0][1].size
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new(
        "RGB", (GAP + columns * (width + GAP), HEADER + rows * (height + LABEL + GAP)), BACKGROUND
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 14), f"framefarm demo · {title}", fill=INK, font=ImageFont.load_default(22))
    label_font = ImageFont.load_default(15)
    for cell, (frame, picture) in enumerate(pictures):
        x = GAP + cell % columns * (width + GAP)
        y = HEADER + cell // columns * (height + LABEL + GAP)
        sheet.paste(picture, (x, y))
        draw.text((x, y + height + 4), f"frame {frame}", fill=QUIET, font=label_font)
    return sheet


def frame_numbers(text: str) -> list[int]:
    """The frames of a range such as `1-8` or `5`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def pixel_size(text: str) -> tuple[int, int]:
    """Width and height of a size such as `480x270`."""
    width, height = text.split("x")
    return int(width), int(height)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check frames and make a contact sheet.")
    parser.add_argument("frames_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stem", required=True)
    parser.add_argument("--frames", type=frame_numbers, required=True)
    parser.add_argument("--size", type=pixel_size, required=True)
    parser.add_argument("--title", default="")
    given = parser.parse_args()
    pictures, wrong = [], []
    for frame in given.frames:
        try:
            pictures.append((frame, load(given.frames_dir / f"{given.stem}_{frame:04d}.png", given.size)))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    contact_sheet(pictures, given.title or given.stem).save(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
