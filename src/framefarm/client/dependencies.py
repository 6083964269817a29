"""What a .blend needs besides itself: textures, sequences, tiles, caches, fonts, sounds, nested libraries.

The reading is blender-asset-tracer's; which files a path stands for is decided here.
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

BROKEN_FILE = (
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
"""What the tracer raises on a damaged file: its own errors, and whatever its parsing trips over."""

BLENDERS_OWN = b"/datafiles/assets/"
_CLIP_SEQUENCE = 1
_TILES = {"<UDIM>": r"1\d{3}", "<UVTILE>": r"u\d+_v\d+"}

logging.getLogger("blender_asset_tracer").addHandler(logging.NullHandler())
logging.getLogger("blender_asset_tracer").propagate = False


@dataclass(frozen=True)
class Missing:
    """A file that the scene wants and that is not there. `wanted_by` is the data block, for a person."""

    path: str
    wanted_by: str


@dataclass(frozen=True)
class Dependencies:
    """Absolute paths, the scene first, each once."""

    files: tuple[Path, ...]
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class SceneFacts:
    """What a .blend says about its scenes. `version` is (4, 2) for Blender 4.2."""

    version: tuple[int, int]
    active: str
    ranges: dict[str, tuple[int, int, int]]
    """Scene name → first frame, last frame, step."""

    def frame_range(self, scene: str | None = None) -> str:
        """The scene's own range as a frame spec. Raises LocalProblem for a scene that is not there."""
        name = scene or self.active
        if name not in self.ranges:
            known = ", ".join(sorted(self.ranges))
            raise LocalProblem(f"The file has no scene {name!r}; it has {known}.")
        first, last, step = self.ranges[name]
        return f"{first}-{last}x{step}" if step > 1 else f"{first}-{last}" if last != first else f"{first}"


def read_scene(path: Path) -> SceneFacts:
    """Read a .blend's version and frame ranges. Raises LocalProblem if it is no readable .blend."""
    with _Opened(path) as opened:
        ranges = {
            _name(block): (
                int(block.get((b"r", b"sfra"))),
                int(block.get((b"r", b"efra"))),
                int(block.get((b"r", b"frame_step"), default=1)),
            )
            for block in opened.find_blocks_from_code(b"SC")
        }
        globals_ = opened.find_blocks_from_code(b"GLOB")
        active = globals_[0].get_pointer(b"curscene") if globals_ else None
        version = divmod(opened.header.version, 100)
        if not ranges:
            raise LocalProblem(f"{path} holds no scene; it cannot be rendered.")
        return SceneFacts(version, _name(active) if active else next(iter(ranges)), ranges)


def find(scene: Path) -> Dependencies:
    """All files a scene needs. Raises LocalProblem if the scene itself cannot be read."""
    files: dict[Path, None] = {scene: None}
    missing: dict[str, Missing] = {}
    blends = [scene]
    with _Opened(scene):
        for blend in blends:
            for usage in trace.deps(blend):
                blends += _take(usage, files, missing)
        _follow_libraries(files, missing)
    return Dependencies(tuple(files), tuple(missing.values()))


def _take(usage: result.BlockUsage, files: dict[Path, None], missing: dict[str, Missing]) -> list[Path]:
    """Note the files of one use, or what is missing. Returns libraries that the tracer can't follow, because
    they have their names in another case."""
    stored = bytes(usage.asset_path)
    if stored.strip(b"/.") == b"" or BLENDERS_OWN in stored:
        return []  # an image that was never given a file, or a brush that every Blender has
    path = _path(usage)
    found = [one for one in _stands_for(usage, path) if one.is_file()]
    astray = []
    if not found and (other := _without_case(path)) is not None:
        found = [one for one in _stands_for(usage, other) if one.is_file()]
        astray = [one for one in found if one.suffix.lower() == ".blend" and one not in files]
    files.update(dict.fromkeys(found))
    if not found:
        missing.setdefault(str(path), Missing(str(path), _wanted_by(usage)))
    return astray


def _follow_libraries(files: dict[Path, None], missing: dict[str, Missing]) -> None:
    """Add the libraries that libraries link. The tracer follows what it knows to be rendered, which leaves
    out, for instance, the parent of a linked object: it gives no picture, but a place."""
    todo = [path for path in files if path.suffix.lower() == ".blend"][1:]
    for library in todo:
        for block in blendfile.open_cached(library).find_blocks_from_code(b"LI"):
            for usage in blocks2assets.library(block):
                path = _path(usage)
                if not path.is_file():
                    path = _without_case(path) or path
                if BLENDERS_OWN in bytes(usage.asset_path):
                    continue
                if not path.is_file():
                    missing.setdefault(str(path), Missing(str(path), _wanted_by(usage)))
                elif path not in files:
                    files[path] = None
                    todo.append(path)


def expand(given: Iterable[Path]) -> list[Path]:
    """Files as absolute paths, folders as all files below them. Raises LocalProblem for what is not there."""
    files: dict[Path, None] = {}
    for path in given:
        whole = Path(os.path.abspath(path))
        if whole.is_dir():
            files.update(dict.fromkeys(sorted(p for p in whole.rglob("*") if p.is_file())))
        elif whole.is_file():
            files[whole] = None
        else:
            raise LocalProblem(f"{path} does not exist.")
    return list(files)


def colours(config: Path) -> Dependencies:
    """What an OpenColorIO configuration needs: itself, the files that it names, and all in the folders below
    it where it looks for them. Raises LocalProblem if it cannot be read."""
    whole = Path(os.path.abspath(config))
    try:
        folders, names = ocio.references(whole.read_text(errors="replace"))
    except OSError as error:
        raise LocalProblem(f"{config} cannot be read: {error.strerror}.") from None
    places = [whole.parent / folder.replace("\\", "/") for folder in folders]
    files: dict[Path, None] = {whole: None}
    missing: dict[str, Missing] = {}
    for name in names:
        spots = [place / name.replace("\\", "/") for place in places]
        found = next((spot for spot in spots if spot.is_file()), None)
        if found is None:
            missing.setdefault(str(spots[0]), Missing(str(spots[0]), f"colour configuration {whole.name}"))
        else:
            files[Path(os.path.abspath(found))] = None
    for place in places:
        if place != whole.parent and place.is_relative_to(whole.parent) and place.is_dir():
            files.update(dict.fromkeys(expand([place])))
    return Dependencies(tuple(files), tuple(missing.values()))


def _path(usage: result.BlockUsage) -> Path:
    """Where the scene expects it. The tracer takes a UNC path for one relative to the scene."""
    if bytes(usage.asset_path).startswith(b"//") and usage.path_full_field is not None:
        stored = usage.block.get(usage.path_full_field.name.name_only, b"")
        if stored.startswith(b"\\\\"):
            return Path(stored.decode("utf-8", "surrogateescape"))
    return Path(usage.abspath)


def _without_case(path: Path) -> Path | None:
    """The only path that differs from `path` in case alone, up to its name; None if there is none."""
    found = Path(path.anchor)
    for number, part in enumerate(path.parts[1:], 2):
        last = number == len(path.parts)
        if (found / part).exists() or (last and any(token in part for token in _TILES)):
            found /= part
            continue
        try:
            fits = [name for name in os.listdir(found) if name.lower() == part.lower()]
        except OSError:
            return None
        if len(fits) != 1 and not last:
            return None
        found /= fits[0] if len(fits) == 1 else part
    return found


def _is_many(usage: result.BlockUsage) -> bool:
    """Whether it may be several files; the tracer takes movie clips and cache files for single ones."""
    block = usage.block
    if block.code == b"MC":
        return bool(block.get(b"source", 0) == _CLIP_SEQUENCE)
    return bool(usage.is_sequence) or (block.code == b"CF" and bool(block.get(b"is_sequence", 0)))


def _stands_for(usage: result.BlockUsage, path: Path) -> Iterator[Path]:
    """The files that exist for one use: one, a numbered sequence, tiles, a pattern, or a cache folder."""
    tile = next((token for token in _TILES if token in path.name), None)
    if tile is not None:
        before, after = path.name.split(tile, 1)
        yield from _siblings(path, re.escape(before) + _TILES[tile] + re.escape(after), re.IGNORECASE)
    elif not _is_many(usage):
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
    kinds = {"Image": "image", "Library": "library", "bSound": "sound", "VFont": "font", "Volume": "volume"}
    kind = kinds.get(usage.block.dna_type_name, usage.block.dna_type_name)
    name = usage.block_name.decode("utf-8", "replace")
    return f"{kind} {name[2:] if kind in kinds.values() else name}"


def _name(block: blendfile.BlendFileBlock) -> str:
    return (block.id_name or b"")[2:].decode("utf-8", "replace")


class _Opened:
    """A .blend, open; whatever is wrong with it becomes one sentence."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> blendfile.BlendFile:
        try:
            return blendfile.open_cached(self._path)
        except BROKEN_FILE as error:
            raise self._unreadable(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        blendfile.close_all_cached()
        if isinstance(error, BROKEN_FILE):
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> LocalProblem:
        if isinstance(error, FileNotFoundError) and not self._path.exists():
            return LocalProblem(f"{self._path} does not exist.")
        if self._path.is_dir():
            return LocalProblem(f"{self._path} is a folder: name the .blend in it.")
        if "not a blend file" in str(error):
            return LocalProblem(f"{self._path} is no .blend.")
        why = "it asks for more memory than there is" if isinstance(error, MemoryError) else error
        return LocalProblem(f"{self._path} cannot be read as a .blend: {why}.")
