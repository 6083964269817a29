"""Files that a .blend needs: textures, sequences, tiles, caches, fonts, sounds, nested libraries.

`framefarm.blend` reads the paths in a .blend; this module finds their files on the disk, and those that these
files name in turn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from framefarm.blend.file import ODD_BLOCK, Blend
from framefarm.blend.path_references import path_references, reached
from framefarm.blend.references import Reference
from framefarm.blend.source import NotReadable
from framefarm.client import file_contents, files_behind
from framefarm.client.disk import Disk
from framefarm.client.errors import LocalProblem
from framefarm.client.scene_facts import SceneFacts, facts_of
from framefarm.core import ocio

MOST_FILES_BEHIND = 100_000


@dataclass(frozen=True)
class MissingFile:
    """A file that the scene needs and that does not exist. `wanted_by` names the data block, for display."""

    path: str
    wanted_by: str


@dataclass(frozen=True)
class Doubt:
    """A file that exists, and why the picture may still be wrong: `why` continues the sentence "PATH …"."""

    path: str
    why: str


@dataclass(frozen=True)
class Dependencies:
    """Files that a scene needs: absolute paths without duplicates, the scene first."""

    files: tuple[Path, ...]
    missing: tuple[MissingFile, ...]
    doubts: tuple[Doubt, ...] = ()


def read_scene(path: Path) -> SceneFacts:
    """Read facts about a .blend's scenes. Raises LocalProblem if it cannot be read."""
    with _OpenBlend(path) as blend:
        return facts_of(blend, path)


def find(scene: Path) -> Dependencies:
    """All files that a scene needs. Raises LocalProblem if the scene itself cannot be read."""
    return _Search(scene).run()


@dataclass
class _Search:
    """The files found so far. Of a library only what is linked from it, and what that leads to, is
    followed."""

    scene: Path
    files: dict[Path, None] = field(default_factory=dict)
    missing: dict[str, MissingFile] = field(default_factory=dict)
    doubts: dict[str, Doubt] = field(default_factory=dict)
    disk: Disk = field(default_factory=Disk)
    linked: dict[Path, set[bytes]] = field(default_factory=dict)
    """Library that is to be read again → its data-blocks that are needed."""
    followed: dict[Path, set[int]] = field(default_factory=dict)
    """Library → groups of its blocks that were followed."""
    behind: list[tuple[Path, str]] = field(default_factory=list)
    """Files that may name others, with the folder-independent kind of the reference."""

    def run(self) -> Dependencies:
        self.files[self.scene] = None
        with _OpenBlend(self.scene) as blend:
            self._add_all(blend, self.scene, None)
        while self.linked:
            library, names = self.linked.popitem()
            self._follow_library(library, names)
        self._follow_behind()
        for path in list(self.files)[1:]:
            why = file_contents.fault(path)
            if why is not None:
                self.doubts.setdefault(str(path), Doubt(str(path), why))
        return Dependencies(tuple(self.files), tuple(self.missing.values()), tuple(self.doubts.values()))

    def _follow_library(self, library: Path, names: set[bytes]) -> None:
        try:
            with library.open("rb") as file:
                blend = Blend(file)
                done = self.followed.setdefault(library, set())
                groups = reached(blend, names) - done
                done |= groups
                self._add_all(blend, library, groups)
        except NotReadable as error:
            why = file_contents.fault(library) or str(error)
            self.doubts[str(library)] = Doubt(str(library), why)
        except (*ODD_BLOCK, OSError, MemoryError) as error:
            self.doubts[str(library)] = Doubt(str(library), f"cannot be read: {error}")

    def _add_all(self, blend: Blend, path: Path, groups: set[int] | None) -> None:
        references, unread = path_references(blend, path.name, groups)
        for reference in references:
            self._add(reference, path.parent)
        for name in unread:
            self.doubts.setdefault(
                f"{path}\0{name}", Doubt(str(path), f"has the data-block {name}, whose files cannot be read")
            )

    def _add(self, reference: Reference, folder: Path) -> None:
        path, found = self.disk.find(reference, folder)
        if not found:
            if reference.required:
                self.missing.setdefault(str(path), MissingFile(str(path), reference.wanted_by))
            return
        for file in found:
            if reference.kind == "library" and file != self.scene:
                self.linked.setdefault(file, set()).update(reference.names)
            elif file not in self.files and file.suffix.lower() in files_behind.SUFFIXES:
                self.behind.append((file, reference.wanted_by))
            self.files.setdefault(file)

    def _follow_behind(self) -> None:
        """Add the files that USD layers, OSL scripts and OBJ files name."""
        seen = {path for path, _ in self.behind}
        while self.behind and len(seen) < MOST_FILES_BEHIND:
            path, wanted_by = self.behind.pop()
            named = files_behind.named_by(path)
            if named.why_not is not None:
                self.doubts[str(path)] = Doubt(str(path), named.why_not)
            for reference in named.references:
                target, found = self.disk.find(reference, path.parent)
                if not found and reference.required:
                    what = f"{path.name} of {wanted_by}"
                    self.missing.setdefault(str(target), MissingFile(str(target), what))
                for file in found:
                    self.files.setdefault(file)
                    if file not in seen and file.suffix.lower() in files_behind.SUFFIXES:
                        seen.add(file)
                        self.behind.append((file, wanted_by))


def expand(paths: Iterable[Path], doubts: list[Doubt] | None = None) -> list[Path]:
    """Absolute paths of the given files, and of all files below the given folders, without duplicates.

    Links to folders are followed. Links that lead nowhere, and a folder that lies within itself, are left out
    and added to `doubts`. Raises LocalProblem for a path that does not exist.
    """
    files: dict[Path, None] = {}
    disk = Disk()
    for path in paths:
        absolute = Path(os.path.abspath(path))
        if absolute.is_dir():
            files.update(dict.fromkeys(disk.below(absolute)))
        elif absolute.is_file():
            files[absolute] = None
        else:
            raise LocalProblem(f"{path} does not exist.")
    if doubts is not None:
        doubts += [Doubt(path, f"is left out: {why}") for path, why in disk.left_out.items()]
    return list(files)


def doubts_of(paths: Iterable[Path]) -> list[Doubt]:
    """Doubts about given files by their content; only of kinds whose content is known."""
    found = ((path, file_contents.fault(path, of_any_kind=False)) for path in sorted(paths))
    return [Doubt(str(path), why) for path, why in found if why is not None]


def of_colour_config(config: Path) -> Dependencies:
    """Files that an OpenColorIO configuration needs: itself, the files it names, and the content of those
    folders of its search path that are below its own. Raises LocalProblem if it cannot be read."""
    absolute = Path(os.path.abspath(config))
    try:
        folders, names = ocio.references(absolute.read_text(errors="replace"))
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


class _OpenBlend:
    """An open .blend as a context manager; every error of a damaged file becomes a LocalProblem."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Blend:
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            return Blend(self._file)
        except (NotReadable, *ODD_BLOCK, OSError, MemoryError) as error:
            self._file.close()
            raise self._unreadable(error) from error

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._file.close()
        if isinstance(error, (NotReadable, *ODD_BLOCK, OSError, MemoryError)):
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> LocalProblem:
        if isinstance(error, FileNotFoundError) and not self._path.exists():
            return LocalProblem(f"{self._path} does not exist.")
        if self._path.is_dir():
            return LocalProblem(f"{self._path} is a folder: give the .blend in it.")
        if "is not a .blend file" in str(error):
            why = file_contents.fault(self._path)
            return LocalProblem(f"{self._path} is no .blend" + (f": it {why}." if why else "."))
        why = "needs more memory than there is" if isinstance(error, MemoryError) else str(error)
        if not isinstance(error, (NotReadable, MemoryError)):
            why = f"is damaged ({error})"
        return LocalProblem(f"{self._path} cannot be read as a .blend: it {why}.")
