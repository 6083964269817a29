"""Copy the files of a frame's folder into staging.

The folder is hostile: programs in the sandbox can put anything there and change it at any moment. Each file
is therefore read once, copied and hashed on the way, and only the copy counts.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from framefarm.core.errors import FarmError
from framefarm.core.failure_codes import explain
from framefarm.core.output_names import picture_name
from framefarm.protocol.node import StagedFile

_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the writing direction."""
_PICTURE = re.compile(r"picture_(-?\d{4,})(\D.*)?")


class OutputRejected(FarmError):
    """A frame's output is refused, or cannot be stored.

    `cause` is a code of core/failure_codes.py, `facts` are those of its sentence.
    """

    title = "Output refused"

    def __init__(self, cause: str, **facts: object) -> None:
        super().__init__(explain(cause, facts))
        self.cause = cause


@dataclass(frozen=True)
class FrameLimits:
    """Maximum number of entries (folders included), bytes and depth of folders of one frame."""

    files: int = 2000
    bytes: int = 64 << 30
    depth: int = 8


@dataclass(frozen=True)
class _OutputFile:
    folder: int
    """Descriptor of the folder that holds it."""
    name: str
    path: str
    """Relative to the frame's folder."""


def collect(
    directory: Path,
    destination: Path,
    stem: str,
    frame: int,
    limits: FrameLimits = FrameLimits(),
    *,
    pattern: str = "",
    has_picture: bool = True,
) -> list[StagedFile]:
    """Copy all files of `directory` to `destination` (created if missing), hashed and synced; then remove it.

    The pictures `picture_<frame>…` become `<stem>_<frame>…`, or are named by `pattern`. They have the kind
    `frame` and come first in the result; all other files keep their relative path, with kind `extra`. Without
    `has_picture` a frame may have those alone. Staged names are `<frame>.<n>`. The result is durable
    after `sync_directory` on the destination. Raises OutputRejected; the files staged by then remain and are
    replaced by the next attempt.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_stored(error, destination.name) from None
    with _open_folder(str(directory), None) as root, _open_folder(str(destination), None) as staging:
        seen: set[str] = set()
        staged: list[StagedFile] = []
        remaining_bytes = limits.bytes
        for file in _walk(root, "", limits, seen):
            size, md5, sha256 = _copy(file, staging, f"{frame}.{len(staged)}", remaining_bytes)
            remaining_bytes -= size
            path, is_picture = _published_path(file.path, stem, pattern, frame)
            staged.append(
                StagedFile(
                    path=path,
                    staged=f"{frame}.{len(staged)}",
                    kind="frame" if is_picture else "extra",
                    size=size,
                    md5=md5,
                    sha256=sha256,
                )
            )
        with suppress(OSError, OutputRejected):  # a program may still write there
            _empty(root, limits.depth)
            os.rmdir(directory)
    if not staged or (has_picture and not any(done.kind == "frame" for done in staged)):
        raise OutputRejected("no_picture", frame=frame)
    return sorted(staged, key=lambda done: (done.kind != "frame", done.path))


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; the files themselves were synced when they were staged."""
    with _open_folder(str(directory), None) as descriptor:
        os.fsync(descriptor)


def not_stored(error: OSError, path: str) -> OutputRejected:
    """An error of the node's own disk as an OutputRejected, whose cause is a fault of the node."""
    cause = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "staging_failed"
    return OutputRejected(cause, path=path, what=error.strerror)


def _published_path(path: str, stem: str, pattern: str, frame: int) -> tuple[str, bool]:
    """(path below the output destination, whether it is one of the frame's own pictures)."""
    picture = _PICTURE.fullmatch(path)
    if picture is None or "/" in path or int(picture[1]) != frame:
        return path, False
    return picture_name(stem, pattern, picture[1], picture[2] or ""), True


def _walk(folder: int, prefix: str, limits: FrameLimits, seen: set[str]) -> Iterator[_OutputFile]:
    if prefix.count("/") > limits.depth:
        raise OutputRejected("bad_output", what=f"they are nested deeper than {limits.depth} folders")
    with os.scandir(folder) as entries:
        listed = []
        for entry in entries:
            path = prefix + entry.name
            _check_name(entry.name)
            folded = unicodedata.normalize("NFC", path).casefold()
            if folded in seen:
                raise OutputRejected(
                    "bad_output", what=f"the names of two files differ in upper and lower case only: {path}"
                )
            seen.add(folded)
            if len(seen) > limits.files:
                raise OutputRejected("too_many_files", limit=limits.files)
            listed.append((entry.name, path, entry.is_dir(follow_symlinks=False)))
    for name, path, is_folder in sorted(listed):
        if is_folder:
            with _open_folder(name, folder) as inner:
                yield from _walk(inner, path + "/", limits, seen)
        else:
            yield _OutputFile(folder, name, path)


def _check_name(name: str) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise OutputRejected("bad_output", what=f"the name {name!a} is not valid UTF-8") from None
    if len(encoded) > 255 or any(_is_unsafe(c) for c in name):
        what = f"the name {name!a} has control characters, backslashes or is too long"
        raise OutputRejected("bad_output", what=what)


def _is_unsafe(character: str) -> bool:
    """Whether a name with it means another path on another system, or looks different on a screen."""
    return (
        character == "\\"
        or unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or character in _DIRECTION_MARKS
    )


@contextmanager
def _open_folder(path: str, parent: int | None) -> Iterator[int]:
    try:
        descriptor = os.open(path, _FOLDER, dir_fd=parent)
    except OSError as error:
        name = os.path.basename(path)
        raise OutputRejected("bad_output", what=f"{name} is no plain folder ({error.strerror})") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy(file: _OutputFile, staging: int, name: str, max_bytes: int) -> tuple[int, str, str]:
    """Copy and sync a file; returns (size, MD5, SHA-256) of the copy."""
    try:
        source = os.open(file.name, _FILE, dir_fd=file.folder)
    except OSError as error:
        what = f"{file.path} is not a plain file ({error.strerror})"
        raise OutputRejected("bad_output", what=what) from None
    try:
        state = os.fstat(source)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise OutputRejected("bad_output", what=f"{file.path} is not a plain file of its own")
        if state.st_size > max_bytes:
            raise OutputRejected("output_too_large", path=file.path)
        return _copy_bytes(source, staging, name, max_bytes)
    except OSError as error:
        raise not_stored(error, file.path) from None
    finally:
        os.close(source)


def _copy_bytes(source: int, staging: int, name: str, max_bytes: int) -> tuple[int, str, str]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        target = os.open(name, flags, 0o644, dir_fd=staging)
    except FileExistsError:
        os.unlink(name, dir_fd=staging)  # of an earlier attempt
        target = os.open(name, flags, 0o644, dir_fd=staging)
    try:
        md5 = hashlib.md5(usedforsecurity=False)
        sha256 = hashlib.sha256()
        size = 0
        while chunk := os.read(source, _CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise OutputRejected("output_too_large", path="a file grew while it was read")
            md5.update(chunk)
            sha256.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]
        os.fchmod(target, 0o644)
        os.fsync(target)
        return size, md5.hexdigest(), sha256.hexdigest()
    finally:
        os.close(target)


def _empty(folder: int, depth: int) -> None:
    if depth < 0:
        raise OutputRejected("bad_output", what="they are nested too deep")
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in listed:
        if is_folder:
            with _open_folder(name, folder) as inner:
                _empty(inner, depth - 1)
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
