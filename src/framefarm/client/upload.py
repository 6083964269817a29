"""Uploading files to a farm: ask which contents it lacks, then send only those."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from framefarm.client.errors import LocalProblem, Refused
from framefarm.client.hashing import HashedFile
from framefarm.client.http import Client

BATCH_FILES = 1000
"""Most files that one call of `uploads/md5` may name."""
CHUNK_BYTES = 1 << 20
WORKERS = 4


def missing(client: Client, files: Sequence[HashedFile]) -> list[HashedFile]:
    """Ask the farm which files it lacks, and return them; it registers the others under their paths.

    Raises Refused or Unreachable.
    """
    lacking: list[HashedFile] = []
    for start in range(0, len(files), BATCH_FILES):
        batch = files[start : start + BATCH_FILES]
        questions = [{"path": f.path, "md5": f.md5, "sha256": f.sha256, "size": f.size} for f in batch]
        answers = client.post("/api/uploads/md5", {"files": questions}, repeatable=True)["files"]
        lacking += [f for f, answer in zip(batch, answers, strict=True) if not answer["exists"]]
    return lacking


def upload(
    client: Client,
    files: Iterable[HashedFile],
    *,
    workers: int = WORKERS,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Upload files in parallel. The first failure stops the others.

    Args:
        workers: number of threads.
        on_bytes: called from several threads with the bytes of each part sent. Before a file is sent again,
            it is called with the negative number of its bytes counted so far.

    Raises Refused, Unreachable, or LocalProblem for a file that changed since it was hashed.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        uploads = [pool.submit(_upload_one, client, file, on_bytes, stop) for file in files]
        try:
            for finished in as_completed(uploads):
                finished.result()
        except BaseException:
            stop.set()
            for future in uploads:
                future.cancel()
            raise


def _upload_one(
    client: Client, file: HashedFile, on_bytes: Callable[[int], None], stop: threading.Event
) -> None:
    body = _Multipart(file, on_bytes, stop)
    try:
        stored = client.send("/api/uploads/file", body.pieces, body.headers)
    except Refused as refusal:
        if refusal.status == 422 and any(e.field == "md5" for e in refusal.errors):
            raise _changed(file) from refusal
        raise
    if stored["sha256"] != file.sha256:
        raise _changed(file)


def _changed(file: HashedFile) -> LocalProblem:
    return LocalProblem(f"{file.path} changed while it was sent. Wait until it is saved, then try again.")


class _Multipart:
    """Request body of `uploads/file`: multipart/form-data of known length with `path`, `md5` and the file."""

    def __init__(self, file: HashedFile, on_bytes: Callable[[int], None], stop: threading.Event) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._stop = stop
        self._sent = 0
        boundary = secrets.token_hex(16)
        form_fields = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("path", file.path), ("md5", file.md5))
        )
        file_head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = (form_fields + file_head).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + file.size + len(self._tail)),
        }

    def pieces(self) -> Iterator[bytes]:
        self._on_bytes(-self._sent)
        self._sent = 0
        yield self._head
        remaining = self._file.size
        try:
            with Path(self._file.path).open("rb") as file:
                while remaining and (chunk := file.read(min(CHUNK_BYTES, remaining))):
                    if self._stop.is_set():
                        raise LocalProblem("Not sent, because another file could not be sent.")
                    yield chunk
                    remaining -= len(chunk)
                    self._sent += len(chunk)
                    self._on_bytes(len(chunk))
        except OSError as error:
            raise LocalProblem(f"{self._file.path} cannot be read: {error.strerror or error}.") from error
        if remaining:
            raise _changed(self._file)
        yield self._tail
