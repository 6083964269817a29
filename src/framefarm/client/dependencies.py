"""Files that a .blend needs: textures, sequences, tiles, caches, fonts, sounds, nested libraries.

blender-asset-tracer reads the .blend; this module finds the files that each path in it refers to.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard
from blender_asset_tracer import blendfile, trace
from blender_asset_tracer.blendfile import exceptions
from blender_asset_tracer.trace import blocks2assets, result

from framefarm.client.errors import LocalProblem
from framefarm.core import ocio

BROKEN_FILE_ERRORS = (
    exceptions.BlendFileError,
    exceptions.SegmentationFault,
    zstandard.ZstdError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Exceptions of the tracer on a damaged file: its own, and those of the code that parses the bytes."""

BUNDLED_ASSETS = b"/datafiles/assets/"
"""Part of the paths of assets that come with every Blender."""
_CLIP_SEQUENCE = 1
_TILES = {"<UDIM>": r"1\d{3}", "<UVTILE>": r"u\d+_v\d+"}

logging.getLogger("blender_asset_tracer").addHandler(logging.NullHandler())
logging.getLogger("blender_asset_tracer").propagate = False


@dataclass(frozen=True)
class MissingFile:
    """A file that the scene needs and that does not exist. `wanted_by` names the data block, for display."""

    path: str
    wanted_by: str


@dataclass(frozen=True)
class Dependencies:
    """Files that a scene needs: absolute paths without duplicates, the scene first."""

    files: tuple[Path, ...]
    missing: tuple[MissingFile, ...]


@dataclass(frozen=True)
class SceneFacts:
    """Facts about a .blend's scenes."""

    version: tuple[int, int]
    """Version of the Blender that wrote the file: (4, 2) for 4.2."""
    active: str
    """Name of the active scene."""
    ranges: dict[str, tuple[int, int, int]]
    """Scene name → first frame, last frame, step."""

    def frame_range(self, scene: str | None = None) -> str:
        """Frame spec of a scene, by default the active one. Raises LocalProblem for an unknown scene."""
        name = scene or self.active
        if name not in self.ranges:
            known = ", ".join(sorted(self.ranges))
            raise LocalProblem(f"The file has no scene {name!r}; it has {known}.")
        first, last, step = self.ranges[name]
        return f"{first}-{last}x{step}" if step > 1 else f"{first}-{last}" if last != first else f"{first}"


def read_scene(path: Path) -> SceneFacts:
    """Read a .blend's version and frame ranges. Raises LocalProblem if it cannot be read."""
    with _OpenBlend(path) as blend:
        ranges = {
            _name(block): (
                int(block.get((b"r", b"sfra"))),
                int(block.get((b"r", b"efra"))),
                int(block.get((b"r", b"frame_step"), default=1)),
            )
            for block in blend.find_blocks_from_code(b"SC")
        }
        globals_ = blend.find_blocks_from_code(b"GLOB")
        active = globals_[0].get_pointer(b"curscene") if globals_ else None
        version = divmod(blend.header.version, 100)
        if not ranges:
            raise LocalProblem(f"{path} contains no scene, so it cannot be rendered.")
        return SceneFacts(version, _name(active) if active else next(iter(ranges)), ranges)


def find(scene: Path) -> Dependencies:
    """All files that a scene needs. Raises LocalProblem if the scene itself cannot be read."""
    files: dict[Path, None] = {scene: None}
    missing: dict[str, MissingFile] = {}
    blends = [scene]
    with _OpenBlend(scene):
        for blend in blends:
            for usage in trace.deps(blend):
                blends += _add_usage(usage, files, missing)
        _follow_libraries(files, missing)
    return Dependencies(tuple(files), tuple(missing.values()))


def _add_usage(
    usage: result.BlockUsage, files: dict[Path, None], missing: dict[str, MissingFile]
) -> list[Path]:
    """Add the files of one use to `files` or `missing`.

    Returns libraries that the tracer can't follow, because their names differ in case from the scene's.
    """
    stored = bytes(usage.asset_path)
    if stored.strip(b"/.") == b"" or BUNDLED_ASSETS in stored:
        return []  # an image without a file, or a brush that comes with Blender
    path = _path(usage)
    found = [file for file in _referred_files(usage, path) if file.is_file()]
    untraced = []
    if not found and (other := _without_case(path)) is not None:
        found = [file for file in _referred_files(usage, other) if file.is_file()]
        untraced = [file for file in found if file.suffix.lower() == ".blend" and file not in files]
    files.update(dict.fromkeys(found))
    if not found:
        missing.setdefault(str(path), MissingFile(str(path), _wanted_by(usage)))
    return untraced


def _follow_libraries(files: dict[Path, None], missing: dict[str, MissingFile]) -> None:
    """Add the libraries that libraries link.

    The tracer follows only data that it takes to be rendered. That leaves out, for instance, the parent of a
    linked object, which is not visible but determines the object's position.
    """
    libraries = [path for path in files if path.suffix.lower() == ".blend"][1:]
    for library in libraries:
        for block in blendfile.open_cached(library).find_blocks_from_code(b"LI"):
            for usage in blocks2assets.library(block):
                path = _path(usage)
                if not path.is_file():
                    path = _without_case(path) or path
                if BUNDLED_ASSETS in bytes(usage.asset_path):
                    continue
                if not path.is_file():
                    missing.setdefault(str(path), MissingFile(str(path), _wanted_by(usage)))
                elif path not in files:
                    files[path] = None
                    libraries.append(path)


def expand(paths: Iterable[Path]) -> list[Path]:
    """Absolute paths of the given files, and of all files below the given folders, without duplicates.

    Raises LocalProblem for a path that does not exist.
    """
    files: dict[Path, None] = {}
    for path in paths:
        absolute = Path(os.path.abspath(path))
        if absolute.is_dir():
            files.update(dict.fromkeys(sorted(p for p in absolute.rglob("*") if p.is_file())))
        elif absolute.is_file():
            files[absolute] = None
        else:
            raise LocalProblem(f"{path} does not exist.")
    return list(files)


def of_colour_config(config: Path) -> Dependencies:
    """Files that an OpenColorIO configuration needs: itself, the files it names, and the content of those
    folders of its search path that are below its own. Raises LocalProblem if it cannot be read."""
    absolute = Path(os.path.abspath(config))
    try:
        folders, names = ocio.wanted(absolute.read_text(errors="replace"))
    except OSError as error:
        raise LocalProblem(f"{config} cannot be read: {error.strerror}.") from None
    search_folders = [absolute.parent / folder.replace("\\", "/") for folder in folders]
    files: dict[Path, None] = {absolute: None}
    missing: dict[str, MissingFile] = {}
    for name in names:
        candidates = [folder / name.replace("\\", "/") for folder in search_folders]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            missing.setdefault(
                str(candidates[0]), MissingFile(str(candidates[0]), f"colour configuration {absolute.name}")
            )
        else:
            files[Path(os.path.abspath(found))] = None
    for folder in search_folders:
        if folder != absolute.parent and folder.is_relative_to(absolute.parent) and folder.is_dir():
            files.update(dict.fromkeys(expand([folder])))
    return Dependencies(tuple(files), tuple(missing.values()))


def _path(usage: result.BlockUsage) -> Path:
    """Path at which the scene expects the file. The tracer would take a UNC path as relative."""
    if bytes(usage.asset_path).startswith(b"//") and usage.path_full_field is not None:
        stored = usage.block.get(usage.path_full_field.name.name_only, b"")
        if stored.startswith(b"\\\\"):
            return Path(stored.decode("utf-8", "surrogateescape"))
    return Path(usage.abspath)


def _without_case(path: Path) -> Path | None:
    """The existing path that equals `path` except for upper and lower case; None if there is not exactly one.

    The last part is kept as it is if no single name matches it: it may stand for several files.
    """
    found = Path(path.anchor)
    for number, part in enumerate(path.parts[1:], 2):
        last = number == len(path.parts)
        if (found / part).exists() or (last and any(token in part for token in _TILES)):
            found /= part
            continue
        try:
            matches = [name for name in os.listdir(found) if name.lower() == part.lower()]
        except OSError:
            return None
        if len(matches) != 1 and not last:
            return None
        found /= matches[0] if len(matches) == 1 else part
    return found


def _is_sequence(usage: result.BlockUsage) -> bool:
    """Whether one use may refer to several files, also for movie clips and caches, unlike in the tracer."""
    block = usage.block
    if block.code == b"MC":
        return bool(block.get(b"source", 0) == _CLIP_SEQUENCE)
    return bool(usage.is_sequence) or (block.code == b"CF" and bool(block.get(b"is_sequence", 0)))


def _referred_files(usage: result.BlockUsage, path: Path) -> Iterator[Path]:
    """Files that one use refers to: one file, a numbered sequence, tiles, a pattern or a cache folder."""
    tile = next((token for token in _TILES if token in path.name), None)
    if tile is not None:
        before, after = path.name.split(tile, 1)
        yield from _siblings(path, re.escape(before) + _TILES[tile] + re.escape(after), re.IGNORECASE)
    elif not _is_sequence(usage):
        yield path
    elif "*" in path.name:
        yield from (
            Path(name) for name in sorted(glob.glob(str(Path(glob.escape(str(path.parent))) / path.name)))
        )
    elif path.is_dir():
        yield from sorted(path.rglob("*"))
    elif digits := re.search(r"\d+$", path.stem):
        start = path.stem[: digits.start()]
        yield from _siblings(path, re.escape(start) + r"\d+" + re.escape(path.suffix))
    else:
        yield path


def _siblings(path: Path, pattern: str, flags: int = 0) -> list[Path]:
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return []
    return [path.parent / name for name in names if re.fullmatch(pattern, name, flags)]


def _wanted_by(usage: result.BlockUsage) -> str:
    block_types = {
        "Image": "image",
        "Library": "library",
        "bSound": "sound",
        "VFont": "font",
        "Volume": "volume",
    }
    block_type = block_types.get(usage.block.dna_type_name, usage.block.dna_type_name)
    name = usage.block_name.decode("utf-8", "replace")
    return f"{block_type} {name[2:] if block_type in block_types.values() else name}"


def _name(block: blendfile.BlendFileBlock) -> str:
    return (block.id_name or b"")[2:].decode("utf-8", "replace")


class _OpenBlend:
    """An open .blend as a context manager; every error of a damaged file becomes a LocalProblem."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> blendfile.BlendFile:
        try:
            return blendfile.open_cached(self._path)
        except BROKEN_FILE_ERRORS as error:
            raise self._unreadable(error) from error

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        blendfile.close_all_cached()
        if isinstance(error, BROKEN_FILE_ERRORS):
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> LocalProblem:
        if isinstance(error, FileNotFoundError) and not self._path.exists():
            return LocalProblem(f"{self._path} does not exist.")
        if self._path.is_dir():
            return LocalProblem(f"{self._path} is a folder: give the .blend in it.")
        if "not a blend file" in str(error):
            return LocalProblem(f"{self._path} is no .blend.")
        why = "it needs more memory than there is" if isinstance(error, MemoryError) else error
        return LocalProblem(f"{self._path} cannot be read as a .blend: {why}.")
