"""Names of rendered files: by the artist's own pattern, of a fitting length, and safe on every system."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

MAX_STEM_BYTES = 200
"""Longest start of a picture's name: a file system takes 255 bytes, with number, view and ending."""
MAX_PART_BYTES = 255
MAX_PATTERN_CHARACTERS = 200
_HASHES = re.compile("#+")
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names of devices on Windows."""
_UNSAFE = re.compile(r'[<>:"|?*\\/]')
_ENDINGS = re.compile(
    r"\.(avif|bmp|cin|dpx|exr|hdr|j2c|jp2|jpe?g|mp4|mov|mkv|avi|webm|png|rgb|sgi|tga|tiff?|webp)",
    re.IGNORECASE,
)


def problem_of_pattern(pattern: str) -> str | None:
    """Why a job's `output_name` is refused, as a sentence without its subject; None if it is taken."""
    if not 1 <= len(pattern) <= MAX_PATTERN_CHARACTERS or len(pattern.encode()) > MAX_STEM_BYTES:
        return f"must have 1 to {MAX_STEM_BYTES} bytes"
    if _UNSAFE.search(pattern):
        return 'must be one name, without any of < > : " | ? * \\ /; folders belong into output_path'
    if any(_is_unprintable(character) for character in pattern):
        return "must have printable characters only"
    if "{" in pattern or "}" in pattern:
        return "must be without { and }: only # stands for something, the frame's number"
    if pattern.startswith((".", " ")) or pattern.endswith((".", " ")):
        return "must neither begin nor end with a dot or a space"
    if _ENDINGS.search(pattern, max(0, pattern.rfind("."))):
        return "must be without an ending: it follows from the scene's file format"
    if RESERVED.fullmatch(_HASHES.sub("0", pattern)):
        return "must not be a name that Windows reserves"
    return None


def picture_name(stem: str, pattern: str, number: str, rest: str) -> str:
    """Name of a frame's picture.

    Args:
        stem: start of the name if there is no pattern: the scene's name.
        pattern: a name in which the last run of `#` stands for the frame's number, as in Blender; without `#`
            the number follows it.
        number: the frame's number with at least 4 digits, as `-0007`.
        rest: view and ending, as `_L.png`.
    """
    if not pattern:
        return fitting(f"{short_stem(stem)}_{number}{rest}")
    runs = list(_HASHES.finditer(pattern))
    if not runs:
        return fitting(f"{pattern}{number}{rest}")
    last = runs[-1]
    frame = int(number)
    digits = f"{'-' if frame < 0 else ''}{abs(frame):0{len(last[0])}d}"
    return fitting(pattern[: last.start()] + digits + pattern[last.end() :] + rest)


def short_stem(stem: str) -> str:
    """`stem` with at most `MAX_STEM_BYTES`: a longer one is cut, and ends with a part of its SHA-256."""
    return _shortened(stem, MAX_STEM_BYTES)


def fitting(name: str) -> str:
    """`name` with at most `MAX_PART_BYTES`; a longer one is cut before its ending."""
    if len(name.encode("utf-8", "surrogatepass")) <= MAX_PART_BYTES:
        return name
    start, dot, ending = name.rpartition(".")
    ending_bytes = len(ending.encode("utf-8", "surrogatepass"))
    if not dot or ending_bytes > 16:
        return _shortened(name, MAX_PART_BYTES)
    return _shortened(start, MAX_PART_BYTES - ending_bytes - 1, of=name) + dot + ending


def safe_path(path: str) -> str:
    """`path` as a relative path that every operating system takes; a safe path stays as it is.

    Unlike paths may become the same: see `safe_paths`. Never absolute, and no part leads elsewhere.
    """
    return "/".join(_safe_part(part) for part in path.split("/"))


def safe_paths(paths: Iterable[str]) -> dict[str, str]:
    """Path → safe path, no two of which are the same file on a system that ignores upper and lower case.

    Of paths that would be the same, the first keeps the plain name; a safe path keeps its own before others.
    """
    given = list(dict.fromkeys(paths))
    plain = {path: safe_path(path) for path in given}
    found: dict[str, str] = {}
    taken: set[str] = set()
    for path in sorted(given, key=lambda one: plain[one] != one):
        name, marked = plain[path], path
        while _folded(name) in taken:
            folder, slash, last = plain[path].rpartition("/")
            start, dot, ending = last.rpartition(".")
            mark = "~" + _digest(marked)
            last = f"{start}{mark}{dot}{ending}" if dot and start else last + mark
            name, marked = folder + slash + fitting(last), marked + mark
        taken.add(_folded(name))
        found[path] = name
    return {path: found[path] for path in given}


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _safe_part(part: str) -> str:
    if part.isprintable() and not _UNSAFE.search(part) and part[-1:] not in (" ", ".", ""):
        return fitting(part if not RESERVED.fullmatch(part) else "_" + part)
    kept = "".join("_" if _UNSAFE.match(c) or _is_unprintable(c) else c for c in part)
    stripped = kept.rstrip(" .")
    kept = stripped + "_" * (len(kept) - len(stripped))
    if RESERVED.fullmatch(kept):
        kept = "_" + kept
    return fitting(kept or "_")


def _is_unprintable(character: str) -> bool:
    """Whether it is a control character, half a character, or changes the direction of writing."""
    return (
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character)
        in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        or character in "\u200e\u200f\u061c"
    )


def _shortened(text: str, size: int, of: str | None = None) -> str:
    """`text` with at most `size` bytes; a longer one ends with a part of the SHA-256 of `of`."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= size:
        return text
    mark = "~" + _digest(of or text)
    return encoded[: size - len(mark)].decode("utf-8", "ignore").rstrip(" .") + mark


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
