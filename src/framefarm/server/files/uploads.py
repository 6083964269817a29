"""Receiving a file: multipart parsed as it arrives, hashed on the way, with constant memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from framefarm.core.errors import FieldError, InvalidInput, TooLarge, TooMany, Unavailable
from framefarm.core.paths import normalise
from framefarm.server.actor import Actor
from framefarm.server.farm import Farm
from framefarm.server.files import service
from framefarm.server.files.manifests import md5_hex

PIECE = 1 << 20
MAX_FIELD_BYTES = 16 << 10
FIELDS = ("path", "md5", "sha256")
_busy: Counter[str] = Counter()


@dataclass
class Received:
    """A file that lies, synced, in the store's incoming folder."""

    incoming: Path
    size: int
    md5: str
    sha256: str


class _Form:
    """Collects parts: small fields in memory, the file to disk, hashed."""

    def __init__(self, boundary: bytes, fd: int, limit: int) -> None:
        self.fields: dict[str, bytes] = {}
        self.filename = ""
        self.files = 0
        self.size = 0
        self.unknown: list[str] = []
        self.ended = False
        self._fd, self._limit = fd, limit
        self._md5, self._sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self._headers: dict[str, bytes] = {}
        self._header = self._value = b""
        self._part = ""
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def _begin(self) -> None:
        self._headers = {}

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part == "file":
            self.files += 1
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        elif self._part in FIELDS:
            self.fields[self._part] = b""
        else:
            self.unknown.append(self._part[:100])

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._part == "file" and self.files == 1:
            self.size += len(piece)
            if self.size > self._limit:
                raise TooLarge(f"The file is larger than {self._limit} bytes.")
            self._md5.update(piece)
            self._sha256.update(piece)
            while piece:
                piece = piece[os.write(self._fd, piece) :]
        elif self._part in FIELDS:
            self.fields[self._part] += bytes(piece)
            if len(self.fields[self._part]) > MAX_FIELD_BYTES:
                raise InvalidInput.of(self._part, f"is longer than {MAX_FIELD_BYTES} bytes")

    def _on_end(self) -> None:
        self.ended = True

    def digests(self) -> tuple[str, str]:
        return self._md5.hexdigest(), self._sha256.hexdigest()


async def receive(request: Request, farm: Farm, actor: Actor) -> dict[str, object]:
    """Take one file; returns what was stored. Whatever goes wrong leaves nothing behind."""
    if _busy[actor.user_id] >= farm.settings.uploads_per_user:
        raise TooMany(f"At most {farm.settings.uploads_per_user} uploads at once.", 1)
    _busy[actor.user_id] += 1
    try:
        return await _receive(request, farm, actor)
    finally:
        _busy[actor.user_id] -= 1
        if not _busy[actor.user_id]:
            del _busy[actor.user_id]


async def _receive(request: Request, farm: Farm, actor: Actor) -> dict[str, object]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput.of("body", "must be multipart/form-data with a file and a path")
    _check_disk(farm)
    limit = farm.settings.max_file_bytes
    left = await farm.db.read(service.quota_left, farm, actor.account_id)
    if left is not None:
        limit = min(limit, left)
    fd, incoming = farm.store.incoming()
    try:
        try:
            form = _Form(boundary, fd, limit)
            await _fill(request, farm, form)
            path, md5_wanted = _fields(form)
            await run_in_threadpool(os.fsync, fd)
        finally:
            os.close(fd)
        md5, sha256 = form.digests()
        if md5_wanted is not None and md5_wanted != md5:
            text = f"does not match: the bytes that arrived have {md5}; send the file again"
            raise InvalidInput.of("md5", text, md5_wanted)
        wanted = form.fields.get("sha256", b"").decode("latin-1").lower()
        if wanted and wanted != sha256:
            text = f"does not match: the bytes that arrived have {sha256}; send the file again"
            raise InvalidInput.of("sha256", text, wanted[:64])
        return await _keep(farm, actor, Received(incoming, form.size, md5, sha256), path)
    finally:
        incoming.unlink(missing_ok=True)


async def _fill(request: Request, farm: Farm, form: _Form) -> None:
    since_check = 0
    held = bytearray()
    try:
        async for piece in request.stream():
            held += piece
            if len(held) >= PIECE:
                since_check += len(held)
                await _parse(form, bytes(held))
                held.clear()
                if since_check > 64 * PIECE:
                    since_check = 0
                    _check_disk(farm)
        await _parse(form, bytes(held))
    except ClientDisconnect:
        raise InvalidInput.of("body", "ended before the file did") from None
    if not form.ended:
        raise InvalidInput.of("body", "ended before the file did: the closing boundary is missing")


async def _parse(form: _Form, data: bytes) -> None:
    try:
        if len(data) < 65_536:
            form.parser.write(data)
        else:
            await asyncio.to_thread(form.parser.write, data)
    except ValueError as error:
        raise InvalidInput.of("body", f"is not well-formed multipart: {error}") from None


def _fields(form: _Form) -> tuple[str, str | None]:
    """(normalised path, MD5 as hex or None); raises InvalidInput with every bad field."""
    errors = [
        FieldError(name, "is not a field of this form: file, path, md5, sha256") for name in form.unknown
    ]
    if form.files != 1:
        errors.append(FieldError("file", "there must be exactly one", form.files))
    path = ""
    try:
        path = normalise(form.fields["path"].decode()).text
    except KeyError:
        errors.append(FieldError("path", "is missing: the file's path on your machine"))
    except ValueError as error:
        text = "is not valid UTF-8" if isinstance(error, UnicodeError) else str(error)
        errors.append(FieldError("path", text, form.fields["path"][:200]))
    md5 = None
    if form.fields.get("md5"):
        md5 = md5_hex(form.fields["md5"].decode("latin-1"))
        if md5 is None:
            errors.append(FieldError("md5", "must be 32 hex digits, or 24 characters of base64"))
    if errors:
        raise InvalidInput(errors)
    return path, md5


def _check_disk(farm: Farm) -> None:
    if farm.store.free_bytes() < farm.settings.free_disk_floor_bytes:
        raise Unavailable("The farm's disk is nearly full; nothing was stored.", 60)


async def _keep(farm: Farm, actor: Actor, got: Received, path: str) -> dict[str, object]:
    generation = await farm.db.read(service.next_generation, actor.account_id, got.sha256)
    key = f"content/{actor.account_id}/{got.sha256}/{generation or 0}"
    if generation is not None:
        # The same file may arrive twice at once; then its bytes are the same.
        with contextlib.suppress(FileExistsError):
            await run_in_threadpool(lambda: farm.store.take(got.incoming, key, if_absent=True))
    duplicate = await farm.db.write(
        service.stored,
        farm,
        actor,
        path=path,
        sha256=got.sha256,
        md5=got.md5,
        size=got.size,
        generation=generation or 1,
    )
    return {
        "path": path,
        "size": got.size,
        "md5": got.md5,
        "sha256": got.sha256,
        "deduplicated": duplicate,
    }
