"""Files on this machine's disk that a path of a scene stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from framefarm.blend.references import Reference
from framefarm.core.path_matching import TILES, frame_parts

_WINDOWS = re.compile(rb"[A-Za-z]:[\\/]|\\\\")
MOST_DEEP = 100
"""Folders within folders that are gone through."""


class Disk:
    """The disk, with each folder listed once."""

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}
        self.left_out: dict[str, str] = {}
        """Path below a folder that was gone through → why it was left out."""

    def find(self, reference: Reference, folder: Path) -> tuple[Path, list[Path]]:
        """The path at which a file in `folder` expects the reference, and the files that there are for it."""
        path = expected_at(reference.stored, folder)
        found = self._files(reference, path)
        if not found:
            other = self._without_case(path)
            if other is not None and other != path:
                found = self._files(reference, other)
        return path, found

    def _files(self, reference: Reference, path: Path) -> list[Path]:
        token = next((token for token in TILES if token in path.name), None)
        if token is not None:
            before, after = path.name.split(token, 1)
            pattern = re.escape(before) + TILES[token] + re.escape(after)
            return self._siblings(path, pattern, re.IGNORECASE)
        if not reference.many:
            return [path] if os.path.isfile(path) else []
        if "*" in path.name:
            return self._siblings(path, ".*".join(re.escape(part) for part in path.name.split("*")))
        if os.path.isdir(path):
            return list(self.below(path))
        parts = frame_parts(path.name)
        if parts is not None:
            return self._siblings(path, re.escape(parts[0]) + r"\d+" + re.escape(parts[1]))
        return [path] if os.path.isfile(path) else []

    def _siblings(self, path: Path, pattern: str, flags: int = 0) -> list[Path]:
        fits = re.compile(pattern, flags).fullmatch
        found = [path.parent / name for name in self._list(str(path.parent)) if fits(name)]
        return [file for file in found if os.path.isfile(file)]

    def _list(self, folder: str) -> list[str]:
        names = self._listed.get(folder)
        if names is None:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            self._listed[folder] = names
        return names

    def below(self, folder: Path) -> Iterator[Path]:
        """All files below a folder, also through links to folders, except to one that it lies in."""
        yield from self._below(folder, ())

    def _below(self, folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.left_out[str(folder)] = f"it cannot be read ({error.strerror})"
            return
        here = (status.st_dev, status.st_ino)
        if here in above or len(above) >= MOST_DEEP:
            self.left_out[str(folder)] = "it links to a folder that it lies in"
            return
        for entry in entries:
            if entry.is_dir():
                yield from self._below(folder / entry.name, (*above, here))
            elif entry.is_file():
                yield folder / entry.name
            else:
                broken = entry.is_symlink()
                self.left_out[entry.path] = "its link leads nowhere" if broken else "it is no ordinary file"

    def _without_case(self, path: Path) -> Path | None:
        """The path that equals `path` except for upper and lower case; None if there is not exactly one.

        The last part is kept as it is if no single name matches it: it may stand for several files.
        """
        if not path.is_absolute():
            return None
        found = Path(path.anchor)
        for number, part in enumerate(path.parts[1:], 2):
            last = number == len(path.parts)
            if os.path.exists(found / part) or (last and any(token in part for token in TILES)):
                found /= part
                continue
            matches = [name for name in self._list(str(found)) if name.lower() == part.lower()]
            if len(matches) != 1 and not last:
                return None
            found /= matches[0] if len(matches) == 1 else part
        return found


def expected_at(stored: bytes, folder: Path) -> Path:
    """Path at which a file in `folder` expects a stored one: `//` is that folder. A foreign path stays as it
    is."""
    if stored.startswith(b"//"):
        relative = os.fsdecode(stored[2:])
    elif os.name != "nt" and _WINDOWS.match(stored):
        return Path(os.fsdecode(stored))
    else:
        relative = os.fsdecode(stored)
    path = os.path.normpath(
        os.path.join(folder, relative.lstrip("/") if stored.startswith(b"//") else relative)
    )
    if os.name != "nt" and "\\" in relative and not os.path.exists(path):
        path = os.path.normpath(path.replace("\\", "/"))  # written by Windows; Blender reads it so, too
    return Path(path)
