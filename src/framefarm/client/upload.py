"""Sending files to a farm: ask what it has, then stream only what is missing."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from framefarm.client.errors import LocalProblem, Refused
from framefarm.client.hashing import Hashed
from framefarm.client.http import Client

BATCH = 1000
"""Most files that one `uploads/md5` call may name."""
CHUNK_BYTES = 1 << 20
WORKERS = 4


def missing(client: Client, files: Sequence[Hashed]) -> list[Hashed]:
    """Which of the files the farm lacks. What it has is registered under the path at once."""
    lacking: list[Hashed] = []
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        questions = [{"path": f.path, "md5": f.md5, "sha256": f.sha256, "size": f.size} for f in batch]
        answers = client.post("/api/uploads/md5", {"files": questions}, repeatable=True)["files"]
        lacking += [f for f, answer in zip(batch, answers, strict=True) if not answer["exists"]]
    return lacking


def upload(
    client: Client,
    files: Iterable[Hashed],
    *,
    workers: int = WORKERS,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Send files, several at once. `on_bytes` hears of each piece sent, from several threads; a piece that
    has to be sent again is taken back first by a negative count.

    Raises Refused, Unreachable, or LocalProblem for a file that changed since it was hashed.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        sending = [pool.submit(_upload_one, client, file, on_bytes, stop) for file in files]
        try:
            for done in as_completed(sending):
                done.result()
        except BaseException:
            stop.set()
            for future in sending:
                future.cancel()
            raise


def _upload_one(client: Client, file: Hashed, on_bytes: Callable[[int], None], stop: threading.Event) -> None:
    body = _Multipart(file, on_bytes, stop)
    try:
        stored = client.send("/api/uploads/file", body.pieces, body.headers)
    except Refused as refusal:
        if refusal.status == 422 and any(e.field == "md5" for e in refusal.errors):
            raise _changed(file) from refusal
        raise
    if stored["sha256"] != file.sha256:
        raise _changed(file)


def _changed(file: Hashed) -> LocalProblem:
    return LocalProblem(f"{file.path} changed while it was sent. Wait until it is saved, then try again.")


class _Multipart:
    """`path`, `md5`, then the file itself, as multipart/form-data of a known length."""

    def __init__(self, file: Hashed, on_bytes: Callable[[int], None], stop: threading.Event) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._stop = stop
        self._sent = 0
        boundary = secrets.token_hex(16)
        fields = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("path", file.path), ("md5", file.md5))
        )
        opening = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = (fields + opening).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + file.size + len(self._tail)),
        }

    def pieces(self) -> Iterator[bytes]:
        self._on_bytes(-self._sent)
        self._sent = 0
        yield self._head
        left = self._file.size
        try:
            with Path(self._file.path).open("rb") as file:
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    if self._stop.is_set():
                        raise LocalProblem("Another file could not be sent.")
                    yield chunk
                    left -= len(chunk)
                    self._sent += len(chunk)
                    self._on_bytes(len(chunk))
        except OSError as error:
            raise LocalProblem(f"{self._file.path} cannot be read: {error.strerror or error}.") from error
        if left:
            raise _changed(self._file)
        yield self._tail
