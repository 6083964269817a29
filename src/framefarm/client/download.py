"""Downloading a job's files under safe names, with checksums checked, skipping files already there."""

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

from framefarm.client.downloaded import Downloaded, sha256_of
from framefarm.client.errors import FarmError, Incomplete, LocalProblem
from framefarm.client.http import Client
from framefarm.client.jobs import quoted
from framefarm.core import output_names

CHUNK_BYTES = 1 << 20
WORKERS = 4
ATTEMPTS = 3
"""Most attempts to fetch a file."""
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


@dataclass
class DownloadResult:
    """Outcome of a download, by the files' paths in the job, sorted."""

    fetched: list[str] = field(default_factory=list)
    already_there: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of each file that is missing or wrong."""
    renamed: list[tuple[str, str]] = field(default_factory=list)
    """(path, name on disk) of each file whose path not every operating system takes."""
    kept: list[tuple[str, str]] = field(default_factory=list)
    """(path on disk, new name) of each file of the user's own that a fetched one took the name of."""
    size_bytes: int = 0
    """Size of the fetched files together."""

    def check(self) -> None:
        """Raise Incomplete if a file is missing or wrong."""
        if self.problems:
            raise Incomplete(self.problems)


def list_files(client: Client, job_id: str) -> list[dict[str, Any]]:
    """All committed files of a job: path, frame, kind, size (bytes), md5, sha256, url.

    Raises Refused or Unreachable.
    """
    return list(client.pages(f"/api/jobs/{quoted(job_id)}/files"))


def safe_parts(name: str) -> tuple[str, ...]:
    """Parts of a relative path that is safe on every operating system. Raises ValueError with the reason.

    The name comes from a scene through the farm; neither is trusted.
    """
    if not name or name.startswith("/"):
        raise ValueError("an absolute or empty name")
    parts = tuple(name.split("/"))
    for part in parts:
        if part in {"", ".", ".."}:
            raise ValueError("a name that leads elsewhere")
        if _FORBIDDEN.search(part) or part.endswith((" ", ".")):
            raise ValueError("a name with characters that not every system allows")
        if output_names.RESERVED.fullmatch(part):
            raise ValueError("a name that some systems reserve")
        if len(part.encode("utf-8", "surrogatepass")) > 255:
            raise ValueError("a name that is too long")
    return parts


def leads_elsewhere(path: str) -> bool:
    """Whether a path of a job's file could lead out of the folder of its download."""
    return any(part in {"", ".", ".."} for part in path.split("/"))


def download(
    client: Client,
    files: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    downloaded: Downloaded | None = None,
    workers: int = WORKERS,
    on_bytes: Callable[[int], None] = lambda count: None,
    on_file: Callable[[str], None] = lambda path: None,
) -> DownloadResult:
    """Fetch files into `folder`, several at once. Files already there with the right checksum are skipped.
    A file whose name not every operating system takes gets one that all take.

    Args:
        files: entries of `list_files`, in its order.
        downloaded: record of earlier downloads, by default the user's: what they wrote, and nobody changed
            since, is replaced. Another file of the same name is kept under a new one.
        workers: number of threads.
        on_bytes: called from several threads with bytes done, negative before a repeated fetch.
        on_file: called with each path that is done.

    Raises LocalProblem if the folder cannot be made. A file that fails is in `problems` of the result; the
    others are fetched all the same.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalProblem(f"{folder} cannot be made: {error.strerror or error}.") from error
    record = downloaded or Downloaded()
    result = DownloadResult()
    to_fetch: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
    newest = {str(file["path"]): file for file in files}  # of two frames with one path the later one counts
    kept = {}
    for path, file in newest.items():
        if leads_elsewhere(path):
            result.problems.append((path, "an empty, absolute or climbing name; not fetched"))
        else:
            kept[path] = file
    names = output_names.safe_paths(kept)
    for path, file in kept.items():
        try:
            to_fetch.append((file, safe_parts(names[path])))
        except ValueError as error:
            result.problems.append((path, f"{error}; not fetched"))
            continue
        if names[path] != path:
            result.renamed.append((path, names[path]))

    def keep(target: Path) -> None:
        if (name := record.keep_aside(target)) is not None:
            result.kept.append((target.relative_to(folder).as_posix(), name))

    def fetch(item: tuple[Mapping[str, Any], tuple[str, ...]]) -> None:
        file, parts = item
        path = str(file["path"])
        try:
            fetched = _fetch_one(client, file, folder, parts, on_bytes, keep)
            record.note(folder.joinpath(*parts), str(file["sha256"]))
        except (FarmError, OSError) as error:
            result.problems.append((path, str(error)))
        else:
            (result.fetched if fetched else result.already_there).append(path)
            result.size_bytes += int(file["size"]) if fetched else 0
            on_file(path)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fetch, to_fetch))
    if downloaded is None:
        record.close()
    for listed in (result.fetched, result.already_there, result.problems, result.renamed, result.kept):
        listed.sort()
    return result


def _fetch_one(
    client: Client,
    file: Mapping[str, Any],
    folder: Path,
    parts: tuple[str, ...],
    on_bytes: Callable[[int], None],
    keep: Callable[[Path], None],
) -> bool:
    """Whether the file was fetched; False if it was already there. `keep`: called before a file is put to its
    place. Raises FarmError or OSError."""
    parent = _make_parents(folder, parts[:-1])
    target = parent / parts[-1]
    if _is_complete(target, file):
        on_bytes(int(file["size"]))
        return False
    if not file.get("url"):
        other_job = file.get("replaced_by")
        raise LocalProblem(
            f"job {other_job} replaced it by a file of the same name"
            if other_job
            else "the farm no longer has it"
        )
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            _fetch_and_check(client, file, target, on_bytes, keep)
            return True
        except LocalProblem:
            raise
        except FarmError:
            if not attempts_left:
                raise
    raise AssertionError("unreachable")


def _make_parents(folder: Path, parts: tuple[str, ...]) -> Path:
    """Make the folder of a file, refusing links in its path. Raises LocalProblem or OSError."""
    for part in parts:
        folder = folder / part
        if folder.is_symlink():
            raise LocalProblem(f"{folder} is a link; files are not written through links")
        folder.mkdir(exist_ok=True)
    return folder


def _is_complete(target: Path, file: Mapping[str, Any]) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_size != int(file["size"]):
        return False
    return sha256_of(target) == str(file["sha256"])


def _fetch_and_check(
    client: Client,
    file: Mapping[str, Any],
    target: Path,
    on_bytes: Callable[[int], None],
    keep: Callable[[Path], None],
) -> None:
    """Fetch into a temporary file beside the target, and rename it to the target if its checksum is right."""
    size, received, counted = int(file["size"]), 0, 0
    digest = hashlib.sha256()
    temporary = target.parent / f".framefarm-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("xb") as out, client.fetch(str(file["url"])) as response:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                received += len(chunk)
                if received > size:
                    break
                digest.update(chunk)
                out.write(chunk)
                on_bytes(len(chunk))
                counted = received
            out.flush()
            os.fsync(out.fileno())
        if received != size or digest.hexdigest() != file["sha256"]:
            raise FarmError(f"it arrived damaged: {received} of {size} bytes, or a wrong checksum")
        keep(target)
        temporary.replace(target)
    except BaseException:
        on_bytes(-counted)
        temporary.unlink(missing_ok=True)
        raise
