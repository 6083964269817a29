"""Folders and files that an OpenColorIO configuration refers to. Text only, no I/O.

A configuration is YAML with tags of its own, which YAML readers refuse. Only two of its keys name files, in
few forms, so that regular expressions find them.
"""

from __future__ import annotations

import re

MAX_FILES = 10_000
_SEARCH = re.compile(r"^search_path:[ \t]*(.*)$", re.MULTILINE)
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)$")
_FILE = re.compile(r"!<FileTransform>\s*\{([^}]*)\}")
_SOURCE = re.compile(r"(?:^|[,\s])src:\s*(\"[^\"]*\"|'[^']*'|[^,}\n]+)")
_DRIVE = re.compile(r"[A-Za-z]\Z")


def references(text: str) -> tuple[list[str], list[str]]:
    """(folders of the search path, files looked up in them), as written in the configuration.

    Names with a variable (`$SHOT`) are left out. Folders are absolute or relative to the configuration's own
    folder, which is also the only one if none is written. At most 100 folders and MAX_FILES files.
    """
    folders = [f for f in _folders(text) if "$" not in f] or [""]
    named = (_plain(s) for part in _FILE.findall(text) for s in _SOURCE.findall(part))
    files = dict.fromkeys(name for name in named if name and "$" not in name)
    return folders[:100], list(files)[:MAX_FILES]


def _folders(text: str) -> list[str]:
    match = _SEARCH.search(text)
    if match is None:
        return []
    if written := match[1].strip():
        return [part for part in _split(_plain(written)) if part]
    folders = []
    for line in text[match.end() :].splitlines()[1:]:
        item = _ITEM.match(line)
        if item is None:
            break
        folders.append(_plain(item[1]))
    return folders


def _split(written: str) -> list[str]:
    """Split at colons, except the colon of a drive letter."""
    parts: list[str] = []
    for part in written.split(":"):
        if parts and _DRIVE.match(parts[-1]) and part.startswith(("/", "\\")):
            parts[-1] += ":" + part
        else:
            parts.append(part)
    return parts


def _plain(written: str) -> str:
    written = written.strip()
    if len(written) > 1 and written[0] == written[-1] and written[0] in "\"'":
        return written[1:-1]
    return written
