"""A session's inputs as one tree of links, and the path of each of them in the sandbox.

The tree mirrors the artist's paths: `/projects/film/a.blend` is `<tree>/projects/film/a.blend`. Its top
folders are bound read-only at their original paths, so that a scene finds its files unchanged; the node's own
files at those paths are hidden. An input whose path belongs to the system or to the farm appears below
`/inputs` instead, and in_blender/files.py changes the scene's paths (`Layout.remap`).

Windows paths appear where Blender on Linux looks for them, also while it loads libraries: `C:/a` at `/c/a`,
and a UNC path `//server/share/a` at `/server/share/a`, with that folder a second time as `/\\\\server`
(docs/decisions/0016-windows-paths-lie-where-blender-looks.md).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from framefarm.core.errors import FarmError
from framefarm.core.paths import linux_path, top_folder
from framefarm.node.sandbox import FARM_FOLDER, OUTPUT_FOLDER, Bind, Mode
from framefarm.protocol.node import Input

REMAPPED = "/inputs"
"""Folder in the sandbox for inputs that cannot have their own path."""

SYSTEM_FOLDERS = (
    "/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/boot",
    "/tmp", OUTPUT_FOLDER, REMAPPED, FARM_FOLDER,  # noqa: S108
)  # fmt: skip

_MAX_BINDS = 200  # bwrap's start time grows with the square of their number
_ABSOLUTE = re.compile(r"/|[A-Z]:/")
_IN_DRIVE = re.compile(r"/[a-z](?:/|\Z)")
_FICLONE = 0x40049409  # from linux/fs.h


class BadInputs(FarmError):
    """An input's bytes are missing or have another size, or its path cannot be laid out."""

    title = "Inputs unusable"


@dataclass(frozen=True)
class Layout:
    """A laid-out tree.

    `remap` has pairs (artist's path, path in the sandbox), each valid for the path and all below it. The
    artist's paths are normalised, as `C:` or `//server`.
    """

    tree: Path
    binds: tuple[Bind, ...] = ()
    remap: tuple[tuple[str, str], ...] = field(default=())
    tops: tuple[tuple[str, str], ...] = field(default=())
    """Pairs as in `remap` for each top folder of the inputs, also where both paths are equal."""

    def in_sandbox(self, path: str) -> str:
        """The path in the sandbox of the input with this artist's path."""
        for old, new in self.remap:
            if path == old or path.startswith(old + "/"):
                return new + path[len(old) :]
        return path

    def artists_path(self, path: str) -> str:
        """The artist's path for a path in the sandbox, which may lie outside of the inputs."""
        for known, inside in self.tops:
            if (path + "/").startswith(inside + "/"):
                return known + path[len(inside) :]
        for tree in (REMAPPED, str(self.tree)):  # a neighbour of a remapped scene
            path = path[len(tree) :] if path.startswith(tree + "/") else path
        if path.startswith("/\\\\"):  # where Blender looks for a UNC path
            return "//" + path[3:]
        if _IN_DRIVE.match(path) and any(known[1:] == ":" for known, _ in self.tops):
            return f"{path[1].upper()}:{path[2:]}"
        return path


def lay_out(
    inputs: Sequence[Input], tree: Path, mode: Mode = "bubblewrap", reserved: Iterable[str] = ()
) -> Layout:
    """Create the folder `tree`, in an existing parent, and link every input into it.

    Only sizes are checked: the bytes were verified when they were stored. A file that the sandbox's user
    could not read, or that is on another disk, is copied (a clone, where the file system has clones).
    `reserved` are further paths that no input may cover. Without bubblewrap all inputs are remapped into the
    tree. Raises BadInputs.
    """
    tree.mkdir(mode=0o755)
    tops = _paths_of_tops(inputs, [*SYSTEM_FOLDERS, *reserved])
    top_of_artists = {top_folder(item.path): top_folder(linux_path(item.path)) for item in inputs}
    folders = {str(tree)}
    for item in inputs:
        target = f"{tree}{linux_path(item.path)}"
        _make_folder(target.rpartition("/")[0], folders)
        if target in folders:
            raise BadInputs(f"The input {item.path} is also the folder of another input.")
        _link(item, target)
    if mode == "none":
        remap = [(known, f"{tree}{name}") for known, name in top_of_artists.items()]
        return Layout(tree, (), tuple(remap), tuple(remap))
    binds = [Bind(f"{tree}{name}", name) for name, path in tops.items() if path == name]
    # Blender turns `\\server\share` into `\\server/share` and takes that as relative to `/`, where it runs.
    servers = [known for known in top_of_artists if known.startswith("//")][:_MAX_BINDS]
    binds += [Bind(f"{tree}{known[1:]}", "/\\\\" + known[2:]) for known in servers]
    tops_inside = [(known, tops[name]) for known, name in top_of_artists.items()]
    remap = [(known, inside) for known, inside in tops_inside if inside != known]
    if any(path != name for name, path in tops.items()):
        # The whole tree, so that relative paths of a remapped scene still lead to its neighbours.
        binds.append(Bind(str(tree), REMAPPED))
    return Layout(tree, tuple(binds), tuple(remap), tuple(tops_inside))


def _paths_of_tops(inputs: Iterable[Input], taken: list[str]) -> dict[str, str]:
    """Each top folder (or file at the very top) of the tree, and its path in the sandbox."""
    tops: dict[str, str] = {}
    for item in inputs:
        _check_path(item.path)
        first, _, rest = linux_path(item.path)[1:].partition("/")
        name = f"/{first}"
        if tops.get(name) == name or (name in tops and rest):
            continue
        free = bool(rest) and not first.startswith("lib") and len(tops) < _MAX_BINDS
        free = free and not any(other == name or other.startswith(name + "/") for other in taken)
        tops[name] = name if free else REMAPPED + name
    return tops


def _check_path(path: str) -> None:
    parts = linux_path(path).split("/") if _ABSOLUTE.match(path) else [path]
    valid = len(parts) > 1 and "\0" not in path
    valid = valid and all(part not in ("", ".", "..") for part in parts[1:])
    if not valid or any(len(os.fsencode(part)) > 255 for part in parts):
        raise BadInputs(f"The input path {path[:200]!r} is not an absolute, plain path.")


def _make_folder(folder: str, created: set[str]) -> None:
    if folder in created:
        return
    _make_folder(folder.rpartition("/")[0], created)
    try:
        os.mkdir(folder)
        os.chmod(folder, 0o755)  # noqa: S103 - for Blender's user
    except FileExistsError:
        raise BadInputs(f"The input folder {folder} is also an input file.") from None
    created.add(folder)


def _link(item: Input, target: str) -> None:
    try:
        os.link(item.source, target, follow_symlinks=False)
    except FileExistsError:
        raise BadInputs(f"The input path {item.path} is given twice, or is also a folder.") from None
    except FileNotFoundError:
        raise BadInputs(f"The bytes of the input {item.path} are not on this machine.") from None
    except OSError:
        _copy(item, target)  # another disk, too many links, or no right to link
    state = os.lstat(target)
    if stat.S_ISREG(state.st_mode) and not state.st_mode & stat.S_IROTH:
        os.unlink(target)
        _copy(item, target)
    elif not stat.S_ISREG(state.st_mode):
        os.unlink(target)
        raise BadInputs(f"The stored input {item.path} is not a plain file.")
    if state.st_size != item.size:
        raise BadInputs(
            f"The stored input {item.path} has {state.st_size} bytes, but {item.size} were promised."
        )


def _copy(item: Input, target: str) -> None:
    try:
        source = os.open(item.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BadInputs(f"The stored input {item.path} can't be read: {error.strerror}.") from None
    with os.fdopen(source, "rb") as reader, open(target, "xb") as writer:
        os.fchmod(writer.fileno(), 0o644)
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)
