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
    with _Opened(scene):
        for usage in trace.deps(scene):
            if bytes(usage.asset_path).strip(b"/.") == b"":
                continue  # an image that was never given a file
            found = [path for path in _stands_for(usage) if path.is_file()]
            files.update(dict.fromkeys(found))
            if not found:
                wanted = str(usage.abspath)
                missing.setdefault(wanted, Missing(wanted, _wanted_by(usage)))
        _follow_libraries(files, missing)
    return Dependencies(tuple(files), tuple(missing.values()))


def _follow_libraries(files: dict[Path, None], missing: dict[str, Missing]) -> None:
    """Add the libraries that libraries link. The tracer follows what it knows to be rendered, which leaves
    out, for instance, the parent of a linked object: it gives no picture, but a place."""
    todo = [path for path in files if path.suffix.lower() == ".blend"][1:]
    for library in todo:
        for block in blendfile.open_cached(library).find_blocks_from_code(b"LI"):
            for usage in blocks2assets.library(block):
                path = Path(usage.abspath)
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


def _stands_for(usage: result.BlockUsage) -> Iterator[Path]:
    """The files that exist for one use: one, a numbered sequence, tiles, a pattern, or a cache folder."""
    path = Path(usage.abspath)
    tile = next((token for token in _TILES if token in path.name), None)
    if tile is not None:
        before, after = path.name.split(tile, 1)
        yield from _siblings(path, re.escape(before) + _TILES[tile] + re.escape(after))
    elif not usage.is_sequence:
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


def _siblings(path: Path, pattern: str) -> list[Path]:
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return []
    return [path.parent / name for name in names if re.fullmatch(pattern, name)]


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
        return LocalProblem(f"{self._path} cannot be read as a .blend: {error}.")
