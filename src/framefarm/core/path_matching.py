"""Uploaded files that a path of a scene names: one file, tiles, a numbered sequence, a pattern or a folder.

Artists' machines often ignore case, nodes do not: a path without an exactly equal upload matches the upload
that is equal except for case, if there is only one. Text only, no I/O.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from framefarm.core.paths import normalise

_FRAME = re.compile(r"(?<!\d)\d++(?=\D*\Z)")
"""Takes time in proportion to the name, which is foreign text."""
MOST_NAME = 255
"""Characters that a file's name can have on any system."""
TILES = {"<UDIM>": r"(1\d{3})", "<UVTILE>": r"(u\d+_v\d+)"}


@dataclass(frozen=True, slots=True)
class PathMatch:
    """Uploads found for a path. `missing`: names without an upload, or with several that differ in case
    only."""

    files: tuple[tuple[str, str], ...] = ()
    """Pairs (name in the scene, uploaded path)."""
    missing: tuple[str, ...] = ()

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """The pairs of `files` whose names differ, which they do in case only."""
        return tuple(pair for pair in self.files if pair[0] != pair[1])


@dataclass
class Uploads:
    """Index of a job's normalised upload paths."""

    paths: Iterable[str]
    _exact: set[str] = field(default_factory=set)
    _folded: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _sorted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._exact.update(self.paths)
        for path in self._exact:
            self._folded[fold(path)].append(path)
        self._sorted = sorted(self._folded)

    def __contains__(self, path: object) -> bool:
        return path in self._exact

    def find(self, path: str, *, many: bool = False, tiles: Sequence[int] = ()) -> PathMatch:
        """Uploads that an absolute path with forward slashes names.

        `many`: the path may name several files. `tiles`: numbers of the UDIM tiles in use, if known.
        """
        folder, _, name = path.rpartition("/")
        if len(name) > MOST_NAME:
            return self._one(path)
        token = next((t for t in TILES if t in name), None)
        if token is not None:
            before, _, after = name.partition(token)
            match = self._siblings(folder, (before, after), TILES[token])
            if token != "<UDIM>" or not tiles:
                return match or PathMatch(missing=(path,))
            names = {f"{folder}/{before}{tile}{after}" for tile in tiles}
            files = tuple(pair for pair in match.files if pair[0] in names) if match else ()
            return PathMatch(files, tuple(sorted(names - {name for name, _ in files})))
        if many:
            return self._many(path, folder, name) or self._one(path)
        return self._one(path)

    def _many(self, path: str, folder: str, name: str) -> PathMatch | None:
        if "*" in name:
            return self._siblings(folder, name.split("*")) or PathMatch(missing=(path,))
        if below := self._below(path):
            return below
        parts = frame_parts(name)
        return None if parts is None else self._siblings(folder, parts, r"(\d+)")

    def _one(self, path: str) -> PathMatch:
        real = self._real(path)
        return PathMatch(missing=(path,)) if real is None else PathMatch(((path, real),))

    def _real(self, path: str) -> str | None:
        if path in self._exact:
            return path
        fits = self._folded.get(fold(path), ())
        return fits[0] if len(fits) == 1 else None

    def _siblings(self, folder: str, literal: Sequence[str], hole: str | None = None) -> PathMatch | None:
        """Files of `folder` whose names are the `literal` parts, with the pattern `hole` between them; any
        text without it."""
        escaped = [re.escape(fold(part)) for part in literal]
        if hole is None:
            # Each part is sought once, after the one before: names and parts are foreign text.
            between = "".join(f"(?>(.*?){part})" for part in escaped[1:-1])
            pattern = re.compile(f"{escaped[0]}{between}(.*){escaped[-1]}\\Z", re.DOTALL)
        else:
            pattern = re.compile(hole.join(escaped) + r"\Z")
        start = fold(folder) + "/"
        names: dict[str, list[str]] = {}
        for folded, real in self._starting(start + fold(literal[0])):
            fits = None if "/" in folded[len(start) :] else pattern.match(folded, len(start))
            if fits is not None:
                name = literal[0]
                for group, part in enumerate(literal[1:], 1):
                    name += real[fits.start(group) : fits.end(group)] + part
                names.setdefault(f"{folder}/{name}", []).append(real)
        return self._all(names)

    def _below(self, folder: str) -> PathMatch | None:
        start = fold(folder) + "/"
        names: dict[str, list[str]] = {}
        for _, real in self._starting(start):
            names.setdefault(f"{folder}/{real[len(start) :]}", []).append(real)
        return self._all(names)

    def _starting(self, start: str) -> Iterable[tuple[str, str]]:
        for index in range(bisect_left(self._sorted, start), len(self._sorted)):
            folded = self._sorted[index]
            if not folded.startswith(start):
                return
            for real in self._folded[folded]:
                yield folded, real

    def _all(self, names: Mapping[str, Sequence[str]]) -> PathMatch | None:
        files = [(n, n if n in self._exact else reals[0]) for n, reals in names.items()
                 if n in self._exact or len(reals) == 1]  # fmt: skip
        return PathMatch(tuple(files)) if files else None


def frame_parts(name: str) -> tuple[str, str] | None:
    """Parts of a file name before and after a frame's number: the last digits before its extension, as in
    Blender's BLI_path_sequence_decode. None without digits there: the name stands for one file."""
    stem, dot, extension = name.rpartition(".")
    if not dot:
        stem, extension = name, ""
    digits = _FRAME.search(stem)
    if digits is None:
        return None
    return stem[: digits.start()], stem[digits.end() :] + dot + extension


def fold(text: str) -> str:
    """`text` in lower case, with its length kept: characters whose lower case is longer stay as they are."""
    folded = text.lower()
    if len(folded) == len(text):
        return folded
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def placeable_aliases(pairs: Iterable[tuple[str, str]], paths: Iterable[str]) -> list[tuple[str, str]]:
    """The aliases (`pairs`) that can be laid out beside the uploads (`paths`).

    Left out: an alias that is itself an upload, the folder of one, or inside one.
    """
    files = set(paths)
    folders = {folder for path in files for folder in _folders(path)}
    kept = []
    for alias, real in pairs:
        try:
            plain = normalise(alias).text == alias
        except ValueError:
            continue
        above = list(_folders(alias))
        if not plain or alias in files or alias in folders or not files.isdisjoint(above):
            continue
        files.add(alias)
        folders.update(above)
        kept.append((alias, real))
    return kept


def _folders(path: str) -> Iterable[str]:
    while (path := path.rpartition("/")[0]) not in ("", "/"):
        yield path
