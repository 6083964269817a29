"""Artists' file paths (POSIX, Windows drive, UNC) and relative names of outputs. Text only, no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from framefarm.core.errors import FieldError

MAX_PATH_BYTES = 4096
MAX_PART_BYTES = 255
MAX_PATHS = 100_000
Kind = Literal["posix", "drive", "unc"]
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_UNC = re.compile(r"//(?![.?]/)[^/\\]+/+[^/]+/+[^/]")
"""A UNC path as `normalise` writes it, `//server/share/a`. On Linux it names the same file as one slash."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[ -.0-~]{1,255})+\Z")
"""A normal POSIX path in ASCII. Most paths are of this form, which saves the slow `normalise`."""
_NOT_WINDOWS = re.compile(r'[<>:"|?*]')


@dataclass(frozen=True, slots=True)
class UploadPath:
    """An absolute path, normalised: `/a/b`, `C:/a/b` or `//server/share/a`."""

    kind: Kind
    text: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def stem(self) -> str:
        """The name without its last extension."""
        head, dot, _ = self.name.rpartition(".")
        return head if dot and head else self.name

    @property
    def key(self) -> str:
        """Key that equal paths share: Windows paths ignore case."""
        return self.text if self.kind == "posix" else linux_path(self.text).casefold()


def linux_path(text: str) -> str:
    """Path on a node for a normalised path, as Blender on Linux resolves it by itself.

    `/a/b` → `/a/b`, `C:/a/b` → `/c/a/b`, `//server/share/a` → `/server/share/a`.
    """
    if text.startswith("//"):
        return text[1:]
    if text.startswith("/"):
        return text
    return f"/{text[0].lower()}{text[2:]}"


def top_folder(text: str) -> str:
    """Start of a normalised path that names its top folder: `/a`, `C:`, `//server`."""
    start = 2 if text.startswith("//") else 1
    end = text.find("/", start)
    return text if end < 0 else text[:end]


def normalise(path: str) -> UploadPath:
    """Parse and normalise an absolute path to a file. Raises ValueError with a sentence for the sender."""
    if not path:
        raise ValueError("is empty")
    if _CONTROL.search(path):
        raise ValueError("has a control character, or is not valid UTF-8")
    size = len(path.encode())
    if size > MAX_PATH_BYTES:
        raise ValueError(f"is longer than {MAX_PATH_BYTES} bytes")
    kind: Kind
    if _DRIVE.match(path):
        kind, prefix, rest = "drive", path[0].upper() + ":/", path[3:].replace("\\", "/")
    elif path.startswith("\\\\") or _UNC.match(path):
        kind, prefix, rest = "unc", "//", path[2:].replace("\\", "/")
    elif path.startswith("/"):
        kind, prefix, rest = "posix", "/", path[1:]
    else:
        raise ValueError("must be absolute: /a/b, C:\\a\\b or \\\\server\\share\\a")
    parts = [part for part in rest.split("/") if part not in {"", "."}]
    if kind == "unc" and rest.startswith(("?/", "./")):
        raise ValueError("must not be a device path: C:\\a\\b or \\\\server\\share\\a")
    if kind != "posix" and _NOT_WINDOWS.search(rest):
        raise ValueError('has a character that Windows does not allow in names: one of < > : " | ? *')
    if ".." in parts:
        raise ValueError("must not contain '..'")
    if rest.endswith("/") or not parts or (kind == "unc" and len(parts) < 3):
        raise ValueError("must name a file, not a folder")
    if size > MAX_PART_BYTES and any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise ValueError(f"has a part longer than {MAX_PART_BYTES} bytes")
    return UploadPath(kind, prefix + "/".join(parts), tuple(parts))


def normalise_all(paths: Sequence[str], field: str = "upload_paths") -> tuple[list[str], list[FieldError]]:
    """A job's paths, normalised and in order, and their errors.

    Errors are malformed paths, equal paths, and a path that is the folder of another. The list of paths is
    complete only without errors.
    """
    errors: list[FieldError] = []
    if not 1 <= len(paths) <= MAX_PATHS:
        return [], [FieldError(field, f"must be 1 to {MAX_PATHS} paths", len(paths))]
    texts: list[str] = []
    seen: dict[str, str] = {}
    foreign: dict[str, str] = {}
    for index, path in enumerate(paths):
        if len(path) <= MAX_PATH_BYTES and _PLAIN.match(path):
            text = key = path
        else:
            try:
                normal = normalise(path)
            except ValueError as error:
                errors.append(FieldError(f"{field}[{index}]", str(error), path[:200]))
                continue
            text, key = normal.text, normal.key
            if normal.kind != "posix":
                foreign.setdefault(top_folder(linux_path(text)), path)
        texts.append(text)
        if key in seen:
            errors.append(
                FieldError(f"{field}[{index}]", f"is the same file as {seen[key][:200]}", path[:200])
            )
        else:
            seen[key] = path
    tops = {top_folder(text): text for text in texts if is_posix(text)} if foreign else {}
    for shared in foreign.keys() & tops.keys():
        sentence = f"would be the same file or folder as {foreign[shared][:200]}: use one kind of path"
        errors.append(FieldError(field, sentence, tops[shared][:200]))
    # No path has a NUL. With NUL in place of the slash, a folder's files sort right after the folder.
    folder = ""
    for key in sorted(seen, key=lambda k: k.replace("/", "\0")):
        if folder and key.startswith(folder + "/"):
            sentence = f"{seen[folder][:200]} would be both a file and a folder"
            errors.append(FieldError(field, sentence, seen[key][:200]))
        else:
            folder = key
    return texts, errors


def is_posix(text: str) -> bool:
    """Whether a normalised path is a POSIX path; otherwise it is a Windows path."""
    return text.startswith("/") and not text.startswith("//")


def is_output_name(name: str) -> bool:
    """Whether a rendered file may have this relative name below the output destination."""
    if _CONTROL.search(name) or len(name.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return False
    parts = name.split("/")
    return all(part not in {"", ".", ".."} and len(part.encode()) <= MAX_PART_BYTES for part in parts)
