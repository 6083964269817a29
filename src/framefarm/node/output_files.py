"""What Blender left in a frame's folder, taken over into staging.

The folder is hostile: whatever runs in the sandbox can put anything there and change it at any moment. So
nothing is trusted but what was read once: each file is copied, hashed on the way, and only the copy counts.
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
from framefarm.protocol.node import StagedFile

_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing."""
_PICTURE = re.compile(r"picture_(-?\d{4,})(\D.*)?")


class OutputRejected(FarmError):
    """A frame's folder holds what must not leave it, or can't be stored: a code of core/failure_codes.py and the
    facts of its sentence."""

    title = "Output refused"

    def __init__(self, cause: str, **facts: object) -> None:
        super().__init__(explain(cause, facts))
        self.cause = cause


@dataclass(frozen=True)
class Limits:
    """Bounds for one frame."""

    files: int = 2000
    bytes: int = 64 << 30
    depth: int = 8


@dataclass(frozen=True)
class _Found:
    folder: int
    name: str
    path: str


def collect(
    directory: Path,
    destination: Path,
    stem: str,
    frame: int,
    limits: Limits = Limits(),
) -> list[StagedFile]:
    """Copy all files of `directory` to `destination` (made if missing), hashed and synced; then empty it.

    The pictures `picture_<frame>…` become `<stem>_<frame>…` of kind `frame`, first in the answer; all else
    keeps its relative path, kind `extra`. Staged names are `<frame>.<n>`. Call `sync_directory` on the
    destination before the answer counts as durable. Raises OutputRejected; what was staged stays and is
    replaced by the next try.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_stored(error, destination.name) from None
    with _opened(str(directory), None) as root, _opened(str(destination), None) as staging:
        seen: set[str] = set()
        staged: list[StagedFile] = []
        left = limits.bytes
        for found in _walk(root, "", limits, seen):
            size, md5, sha256 = _copy(found, staging, f"{frame}.{len(staged)}", left)
            left -= size
            path, is_picture = _published(found.path, stem, frame)
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
        with suppress(OSError, OutputRejected):  # what is still being written is not waited for
            _empty(root, limits.depth)
            os.rmdir(directory)
    if not any(file.kind == "frame" for file in staged):
        raise OutputRejected("no_picture", frame=frame)
    return sorted(staged, key=lambda file: (file.kind != "frame", file.path))


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; the files themselves were synced when they were staged."""
    with _opened(str(directory), None) as descriptor:
        os.fsync(descriptor)


def not_stored(error: OSError, path: str) -> OutputRejected:
    """What this machine's disk did not take, as the machine's fault."""
    cause = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "staging_failed"
    return OutputRejected(cause, path=path, what=error.strerror)


def _published(path: str, stem: str, frame: int) -> tuple[str, bool]:
    picture = _PICTURE.fullmatch(path)
    if picture is None or "/" in path or int(picture[1]) != frame:
        return path, False
    return f"{stem}_{picture[1]}{picture[2] or ''}", True


def _walk(folder: int, prefix: str, limits: Limits, seen: set[str]) -> Iterator[_Found]:
    if prefix.count("/") > limits.depth:
        raise OutputRejected("bad_output", what=f"they are nested deeper than {limits.depth} folders")
    with os.scandir(folder) as entries:
        listed = []
        for entry in entries:
            path = prefix + entry.name
            _check_name(entry.name)
            folded = unicodedata.normalize("NFC", path).casefold()
            if folded in seen:
                raise OutputRejected("bad_output", what=f"two differ in upper and lower case only, {path}")
            seen.add(folded)
            if len(seen) > limits.files:
                raise OutputRejected("too_many_files", limit=limits.files)
            listed.append((entry.name, path, entry.is_dir(follow_symlinks=False)))
    for name, path, is_folder in sorted(listed):
        if is_folder:
            with _opened(name, folder) as inner:
                yield from _walk(inner, path + "/", limits, seen)
        else:
            yield _Found(folder, name, path)


def _check_name(name: str) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise OutputRejected("bad_output", what=f"the name {name!a} is not valid UTF-8") from None
    if len(encoded) > 255 or any(_is_strange(c) for c in name):
        what = f"the name {name!a} has control characters, backslashes or is too long"
        raise OutputRejected("bad_output", what=what)


def _is_strange(character: str) -> bool:
    """No name that means something else on another system, or looks like something else on a screen."""
    return character == "\\" or unicodedata.category(character) in {"Cc", "Zl", "Zp"} or character in _TURNING


@contextmanager
def _opened(path: str, parent: int | None) -> Iterator[int]:
    try:
        descriptor = os.open(path, _FOLDER, dir_fd=parent)
    except OSError as error:
        name = os.path.basename(path)
        raise OutputRejected("bad_output", what=f"{name} is no plain folder ({error.strerror})") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy(found: _Found, staging: int, name: str, most_bytes: int) -> tuple[int, str, str]:
    """Size, MD5 and SHA-256 of the copy, which is on the disk."""
    try:
        source = os.open(found.name, _FILE, dir_fd=found.folder)
    except OSError as error:
        what = f"{found.path} is not a plain file ({error.strerror})"
        raise OutputRejected("bad_output", what=what) from None
    try:
        state = os.fstat(source)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise OutputRejected("bad_output", what=f"{found.path} is not a plain file of its own")
        if state.st_size > most_bytes:
            raise OutputRejected("output_too_large", path=found.path)
        return _copy_bytes(source, staging, name, most_bytes)
    except OSError as error:
        raise not_stored(error, found.path) from None
    finally:
        os.close(source)


def _copy_bytes(source: int, staging: int, name: str, most_bytes: int) -> tuple[int, str, str]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        target = os.open(name, flags, 0o644, dir_fd=staging)
    except FileExistsError:
        os.unlink(name, dir_fd=staging)  # of an earlier try
        target = os.open(name, flags, 0o644, dir_fd=staging)
    try:
        md5 = hashlib.md5(usedforsecurity=False)
        sha256 = hashlib.sha256()
        size = 0
        while chunk := os.read(source, _CHUNK):
            size += len(chunk)
            if size > most_bytes:
                raise OutputRejected("output_too_large", path="one grew while it was read")
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
            with _opened(name, folder) as inner:
                _empty(inner, depth - 1)
            os.rmdir(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
