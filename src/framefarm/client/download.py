"""Fetching a job's files: only under safe names, whole, checked, and nothing twice."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framefarm.client.errors import FarmError, Incomplete, LocalProblem
from framefarm.client.http import Client
from framefarm.client.jobs import quoted

CHUNK_BYTES = 1 << 20
WORKERS = 4
TRIES = 3
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


@dataclass
class Report:
    """What came of a download; paths as the farm names them."""

    fetched: list[str] = field(default_factory=list)
    already_there: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    size_bytes: int = 0

    def check(self) -> None:
        """Raises Incomplete if a file is missing or wrong."""
        if self.problems:
            raise Incomplete(self.problems)


def list_files(client: Client, job_id: str) -> list[dict[str, Any]]:
    """All committed files of a job: path, frame, kind, size, md5, sha256, url."""
    return list(client.pages(f"/api/jobs/{quoted(job_id)}/files"))


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path that is harmless on every system. Raises ValueError, saying why not.

    The name comes from the farm, and before that from a scene: neither is to be trusted.
    """
    if not name or name.startswith("/"):
        raise ValueError("an absolute or empty name")
    parts = tuple(name.split("/"))
    for part in parts:
        if part in {"", ".", ".."}:
            raise ValueError("a name that leads elsewhere")
        if _FORBIDDEN.search(part) or part.endswith((" ", ".")):
            raise ValueError("a name with characters that not every system allows")
        if _RESERVED.fullmatch(part):
            raise ValueError("a name that some systems reserve")
        if len(part.encode("utf-8", "surrogatepass")) > 255:
            raise ValueError("a name that is too long")
    return parts


def download(
    client: Client,
    files: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    workers: int = WORKERS,
    on_bytes: Callable[[int], None] = lambda count: None,
    on_file: Callable[[str], None] = lambda path: None,
) -> Report:
    """Fetch files into `folder`. What lies there already with the right checksum is not fetched again.

    Nothing raises for a single file: it is in `Report.problems`, and the others are fetched all the same.
    Raises LocalProblem if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalProblem(f"{folder} cannot be made: {error.strerror or error}.") from error
    report = Report()
    todo: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
    taken: dict[str, str] = {}
    for file in files:
        path = str(file["path"])
        try:
            parts = safe_parts(path)
        except ValueError as error:
            report.problems.append((path, f"{error}; not fetched"))
            continue
        other = taken.setdefault("/".join(parts).casefold(), path)
        if other != path:
            report.problems.append((path, f"differs from {other} in upper and lower case only; not fetched"))
        else:
            todo.append((file, parts))

    def fetch(item: tuple[Mapping[str, Any], tuple[str, ...]]) -> None:
        file, parts = item
        path = str(file["path"])
        try:
            fetched = _fetch_one(client, file, folder, parts, on_bytes)
        except (FarmError, OSError) as error:
            report.problems.append((path, str(error)))
        else:
            (report.fetched if fetched else report.already_there).append(path)
            report.size_bytes += int(file["size"]) if fetched else 0
            on_file(path)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fetch, todo))
    for names in (report.fetched, report.already_there, report.problems):
        names.sort()
    return report


def _fetch_one(
    client: Client,
    file: Mapping[str, Any],
    folder: Path,
    parts: tuple[str, ...],
    on_bytes: Callable[[int], None],
) -> bool:
    """True if the file was fetched, False if it was there. Raises FarmError or OSError."""
    parent = _make_parents(folder, parts[:-1])
    target = parent / parts[-1]
    if _is_whole(target, file):
        on_bytes(int(file["size"]))
        return False
    if not file.get("url"):
        by = file.get("replaced_by")
        raise LocalProblem(
            f"job {by} wrote a file of the same name over it" if by else "the farm no longer has it"
        )
    for left in reversed(range(TRIES)):
        try:
            _fetch_and_check(client, file, target, on_bytes)
            return True
        except LocalProblem:
            raise
        except FarmError:
            if not left:
                raise
    raise AssertionError("unreachable")


def _make_parents(folder: Path, parts: tuple[str, ...]) -> Path:
    """The folder for a file, made if need be, and never through a link."""
    where = folder
    for part in parts:
        where = where / part
        if where.is_symlink():
            raise LocalProblem(f"{where} is a link; nothing is written through links")
        where.mkdir(exist_ok=True)
    return where


def _is_whole(target: Path, file: Mapping[str, Any]) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_size != int(file["size"]):
        return False
    digest = hashlib.sha256()
    with target.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == str(file["sha256"])


def _fetch_and_check(
    client: Client, file: Mapping[str, Any], target: Path, on_bytes: Callable[[int], None]
) -> None:
    """Fetch into a temporary file beside the target, which gets the target's name once it proves right."""
    size, seen, told = int(file["size"]), 0, 0
    digest = hashlib.sha256()
    temporary = target.parent / f".framefarm-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("xb") as out, client.fetch(str(file["url"])) as response:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                seen += len(chunk)
                if seen > size:
                    break
                digest.update(chunk)
                out.write(chunk)
                on_bytes(len(chunk))
                told = seen
            out.flush()
            os.fsync(out.fileno())
        if seen != size or digest.hexdigest() != file["sha256"]:
            raise FarmError(f"what arrived is not the file: {seen} of {size} bytes, or a wrong checksum")
        temporary.replace(target)
    except BaseException:
        on_bytes(-told)
        temporary.unlink(missing_ok=True)
        raise
