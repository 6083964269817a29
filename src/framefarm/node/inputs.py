"""A session's inputs as one tree of links, and where each of them appears to Blender.

The tree mirrors the artist's paths: `/projects/film/a.blend` is `<tree>/projects/film/a.blend`. Its top
folders are bound read-only at their original places, so a scene finds its files without being changed, and
the files of this machine at those places are neither seen nor touched. What would lie in a place that
belongs to the system or to the farm appears below `/inputs` instead, and the scene is told.

Windows' paths lie where Blender on Linux looks for them, also while it loads libraries: `C:/a` at `/c/a`,
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
from framefarm.node.sandbox import INSIDE, OUTPUT, Bind, Mode
from framefarm.protocol.node import Input

REMAPPED = "/inputs"
"""Where inputs appear that can't have their own place."""

SYSTEM_PLACES = (
    "/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/boot",
    "/tmp", OUTPUT, REMAPPED, INSIDE,  # noqa: S108
)  # fmt: skip

_MOST_BINDS = 200  # bwrap's time grows with the square
_ABSOLUTE = re.compile(r"/|[A-Z]:/")
_FICLONE = 0x40049409


class BadInputs(FarmError):
    """An input's bytes are not there, not those that were promised, or its path can't be laid out."""

    title = "Inputs unusable"


@dataclass(frozen=True)
class Layout:
    """A laid-out tree. `remap` pairs (artist, inside) of paths hold for the path and all below it; the
    artist's are normalised, so `C:` and `//server` are some."""

    tree: Path
    binds: tuple[Bind, ...] = ()
    remap: tuple[tuple[str, str], ...] = field(default=())

    def inside(self, path: str) -> str:
        """Where Blender finds the input that the artist knows as `path`."""
        for old, new in self.remap:
            if path == old or path.startswith(old + "/"):
                return new + path[len(old) :]
        return path


def lay_out(
    inputs: Sequence[Input], tree: Path, mode: Mode = "bubblewrap", reserved: Iterable[str] = ()
) -> Layout:
    """Make the folder `tree` (its parent exists, it does not) and link every input into it.

    Sizes are compared; the bytes were verified when the store was filled. A file that the sandbox's user
    could not read, or that lies on another disk, is copied (a clone, where the disk can). `reserved` are
    further places that no input may cover. Without bubblewrap everything is remapped into the tree.
    Raises BadInputs.
    """
    tree.mkdir(mode=0o755)
    tops = _placed(inputs, [*SYSTEM_PLACES, *reserved])
    theirs = {top_folder(item.path): top_folder(linux_path(item.path)) for item in inputs}
    folders = {str(tree)}
    for item in inputs:
        target = f"{tree}{linux_path(item.path)}"
        _make_folder(target.rpartition("/")[0], folders)
        if target in folders:
            raise BadInputs(f"The input {item.path} is also the folder of another input.")
        _link(item, target)
    if mode == "none":
        return Layout(tree, (), tuple((known, f"{tree}{mine}") for known, mine in theirs.items()))
    binds = [Bind(f"{tree}{mine}", mine) for mine, inside in tops.items() if inside == mine]
    # Blender makes `\\server\share` `\\server/share` and takes that as relative: to `/`, where it runs.
    servers = [known for known in theirs if known.startswith("//")][:_MOST_BINDS]
    binds += [Bind(f"{tree}{known[1:]}", "/\\\\" + known[2:]) for known in servers]
    remap = [(known, tops[mine]) for known, mine in theirs.items() if tops[mine] != known]
    if any(inside != mine for mine, inside in tops.items()):
        # The whole tree, so that paths relative to a moved scene lead where they did.
        binds.append(Bind(str(tree), REMAPPED))
    return Layout(tree, tuple(binds), tuple(remap))


def _placed(inputs: Iterable[Input], taken: list[str]) -> dict[str, str]:
    """Each top folder (or file at the very top) of the inputs, and where it appears."""
    tops: dict[str, str] = {}
    for item in inputs:
        _check_path(item.path)
        first, _, rest = linux_path(item.path)[1:].partition("/")
        mine = f"/{first}"
        if tops.get(mine) == mine or (mine in tops and rest):
            continue
        free = bool(rest) and not first.startswith("lib") and len(tops) < _MOST_BINDS
        free = free and not any(other == mine or other.startswith(mine + "/") for other in taken)
        tops[mine] = mine if free else REMAPPED + mine
    return tops


def _check_path(path: str) -> None:
    parts = linux_path(path).split("/") if _ABSOLUTE.match(path) else [path]
    good = len(parts) > 1 and "\0" not in path
    good = good and all(part not in ("", ".", "..") for part in parts[1:])
    if not good or any(len(os.fsencode(part)) > 255 for part in parts):
        raise BadInputs(f"The input path {path[:200]!r} is not an absolute, plain path.")


def _make_folder(folder: str, made: set[str]) -> None:
    if folder in made:
        return
    _make_folder(folder.rpartition("/")[0], made)
    try:
        os.mkdir(folder)
        os.chmod(folder, 0o755)  # noqa: S103 - Blender's user passes through
    except FileExistsError:
        raise BadInputs(f"The input folder {folder} is also an input file.") from None
    made.add(folder)


def _link(item: Input, target: str) -> None:
    try:
        os.link(item.source, target, follow_symlinks=False)
    except FileExistsError:
        raise BadInputs(f"The input path {item.path} is there twice, or is also a folder.") from None
    except FileNotFoundError:
        raise BadInputs(f"The bytes of the input {item.path} are not on this machine.") from None
    except OSError:
        _copy(item, target)  # another disk, too many links, or not ours to link
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
