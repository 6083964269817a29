"""Blender's names: versions, releases, and the ids of the packages that the farm offers.

A *series* is what an artist asks for (`4.2`), a *release* an exact build (`4.2.23`), a *package* what the
farm offers of one series (`blender-4-2`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from framefarm.core.errors import InvalidInput

BPY_SERIES = ("4.2", "4.3", "4.4", "4.5", "5.0", "5.1", "5.2", "5.3")
"""Series with a `bpy` wheel (November 2026). Only for messages: the package index knows the releases."""

_NAME = re.compile(r"(?:blender[- ]?|v)?(\d{1,2})[.-](\d{1,3})(?:[.-](\d{1,3}))?", re.IGNORECASE)
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class Series:
    """A Blender series such as `4.2`, ordered by age."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def package_id(self) -> str:
        return f"blender-{self.major}-{self.minor}"

    @property
    def python(self) -> str:
        """The version of Python that the series has built in and its `bpy` wheels need, from 4.2 on."""
        return "3.11" if self < Series(5, 1) else "3.13"


@dataclass(frozen=True)
class VersionRequest:
    """A requested Blender: any release of a series, or one exact release of it."""

    series: Series
    patch: int | None = None

    def __str__(self) -> str:
        return str(self.series) if self.patch is None else f"{self.series}.{self.patch}"

    def accepts(self, release: str) -> bool:
        return series_of(release) == self.series and self.patch in (None, release_key(release)[2])


def parse_version(text: str, field: str = "blender_version") -> VersionRequest:
    """Parse a requested version: `4.2`, `4.2.23`, `blender-4-2` or `blender-4.2.23`.

    Raises:
        InvalidInput: for anything else; it names `field`.
    """
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise InvalidInput.of(field, "must be a Blender version like 4.2, 4.2.23 or blender-4-2", text)
    major, minor, patch = match.groups()
    return VersionRequest(Series(int(major), int(minor)), None if patch is None else int(patch))


def release_key(release: str) -> tuple[int, int, int]:
    """Sort key of a release: `4.2.23 LTS` → (4, 2, 23). A missing patch number counts as 0.

    Raises:
        ValueError: if `release` does not begin with a version.
    """
    match = _RELEASE.match(release)
    if match is None:
        raise ValueError(f"not a Blender release: {release!r}")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def series_of(release: str) -> Series:
    """Series of a release: `4.2.23` → `4.2`. Raises ValueError."""
    major, minor, _ = release_key(release)
    return Series(major, minor)


def package_id(release: str) -> str:
    """Id of the package that offers `release`: `4.2.23` → `blender-4-2`. Raises ValueError."""
    return series_of(release).package_id


def archive_id(release: str) -> str:
    """Package id of the archive of `release`: `4.2.23` → `blender-4-2-archive`. Raises ValueError."""
    return f"{package_id(release)}-archive"


def newest(request: VersionRequest, releases: Iterable[str]) -> str | None:
    """Newest of `releases` that `request` accepts; None if there is none."""
    return max((r for r in releases if request.accepts(r)), key=release_key, default=None)


def can_open(file_version: str, release: str) -> bool:
    """Whether Blender `release` renders a file saved by `file_version` correctly: it is not of an older
    series.

    Blender 4.2 refuses files of 5.0. Between 4.5 and 5.0, or within 4.x, an older Blender opens the file but
    drops unknown data, so that the picture is wrong.
    """
    return series_of(file_version) <= series_of(release)
