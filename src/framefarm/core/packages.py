"""Blender's names: versions, releases, and the ids of the packages that the farm offers.

A *series* is what an artist asks for (`4.2`), a *release* an exact build (`4.2.23`), a *package* what the
farm offers of one series (`blender-4-2`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from framefarm.core.errors import InvalidInput

BPY_SERIES = ("4.2", "4.3", "4.4", "4.5", "5.0")
"""Series that exist as a `bpy` wheel for Python 3.11 (November 2026). Only for messages, when the package
index can't be asked: which releases exist is the index's to say."""

_NAME = re.compile(r"(?:blender[- ]?|v)?(\d{1,2})[.-](\d{1,3})(?:[.-](\d{1,3}))?", re.IGNORECASE)
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class Series:
    """A Blender version as artists say it, `4.2`. Ordered by age."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def package_id(self) -> str:
        return f"blender-{self.major}-{self.minor}"


@dataclass(frozen=True)
class Wanted:
    """A series, or one exact release of it."""

    series: Series
    patch: int | None = None

    def __str__(self) -> str:
        return str(self.series) if self.patch is None else f"{self.series}.{self.patch}"

    def accepts(self, release: str) -> bool:
        return series_of(release) == self.series and self.patch in (None, release_key(release)[2])


def parse_wanted(text: str, field: str = "blender_version") -> Wanted:
    """`4.2`, `4.2.23`, `blender-4-2`, `blender-4.2.23`.

    Raises:
        InvalidInput: on anything else; names `field`.
    """
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise InvalidInput.of(field, "must be a Blender version like 4.2, 4.2.23 or blender-4-2", text)
    major, minor, patch = match.groups()
    return Wanted(Series(int(major), int(minor)), None if patch is None else int(patch))


def release_key(release: str) -> tuple[int, int, int]:
    """For ordering: `4.2.23 LTS` → (4, 2, 23). A release without a patch number counts as patch 0.

    Raises:
        ValueError: if it does not begin with a version.
    """
    match = _RELEASE.match(release)
    if match is None:
        raise ValueError(f"not a Blender release: {release!r}")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def series_of(release: str) -> Series:
    major, minor, _ = release_key(release)
    return Series(major, minor)


def package_id(release: str) -> str:
    """`4.2.23` → `blender-4-2`."""
    return series_of(release).package_id


def newest(wanted: Wanted, releases: Iterable[str]) -> str | None:
    """The newest release that `wanted` accepts; None if there is none."""
    return max((r for r in releases if wanted.accepts(r)), key=release_key, default=None)


def opens(file_version: str, release: str) -> bool:
    """May this Blender be trusted with a file that `file_version` saved?

    Only if it is not of an older series: 4.2 refuses files of 5.0 by itself; between 4.5 and 5.0, or within
    4.x, an older Blender opens the file but drops what it does not know, which is a wrong picture.
    """
    return series_of(file_version) <= series_of(release)
