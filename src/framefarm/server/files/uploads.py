"""Receipt of one uploaded file: multipart parsed and hashed as it arrives, in constant memory (RFC 7578)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from framefarm.core.errors import FieldError, InvalidInput, TooLarge, TooMany, Unavailable, WrongKind
from framefarm.core.paths import normalise
from framefarm.server.actor import Actor
from framefarm.server.context import AppContext
from framefarm.server.files import service
from framefarm.server.files.manifests import md5_hex
from framefarm.server.storage import keys

PIECE = 1 << 20
"""Bytes that are parsed at a time."""
CHECK_DISK_EVERY_BYTES = 64 << 20
MAX_FIELD_BYTES = 16 << 10
MAX_OTHER_BYTES = 256 << 10
"""Limit of a body's bytes beside the file's: fields, headers, boundaries."""
MAX_BOUNDARY_BYTES = 70
"""RFC 2046, section 5.1.1."""
STALL_SECONDS = 3600
"""Longest pause between two pieces of a body."""
FIELDS = ("path", "md5", "sha256")
_uploads: Counter[str] = Counter()
"""Uploads in progress by user id."""


class _Form:
    """Parser of the form: keeps small fields in memory, writes the file to `fd` and hashes it."""

    def __init__(self, boundary: bytes, fd: int, limit: _Limit) -> None:
        self.fields: dict[str, bytearray] = {}
        self.files = 0
        self.size = 0
        self.unknown: list[str] = []
        self.repeated: list[str] = []
        self._received = 0
        self.ended = False
        self._fd, self._limit = fd, limit
        self._md5, self._sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self._headers: dict[str, bytes] = {}
        self._header = self._value = b""
        self._part = ""
        self._parser = MultipartParser(
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

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the body. Raises ValueError (bad multipart), TooLarge and InvalidInput."""
        self._received += len(data)
        self._parser.write(data)
        if self._received - self.size > MAX_OTHER_BYTES:
            raise InvalidInput.of("body", f"has more than {MAX_OTHER_BYTES} bytes beside the file's")

    def content(self) -> service.Content:
        """Digests and size of the file's bytes so far."""
        return service.Content(self._sha256.hexdigest(), self._md5.hexdigest(), self.size)

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
        if self._part in self.fields or (self._part == "file" and self.files > 1):
            self.repeated.append(self._part)
            self._part = ""
        elif self._part in FIELDS:
            self.fields[self._part] = bytearray()
        elif self._part != "file":
            self.unknown.append(self._part[:100])

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._part == "file":
            self.size += len(piece)
            if self.size > self._limit.size:
                raise self._limit.error
            self._md5.update(piece)
            self._sha256.update(piece)
            while piece:
                piece = piece[os.write(self._fd, piece) :]
        elif self._part in FIELDS:
            self.fields[self._part] += piece
            if len(self.fields[self._part]) > MAX_FIELD_BYTES:
                raise InvalidInput.of(self._part, f"is longer than {MAX_FIELD_BYTES} bytes")

    def _on_end(self) -> None:
        self.ended = True


async def receive(request: Request, context: AppContext, actor: Actor) -> dict[str, object]:
    """Store one uploaded file; returns the fields of `Uploaded`. A failed upload leaves no file and no row.

    Raises TooMany, WrongKind, InvalidInput, TooLarge, and Unavailable on a full disk.
    """
    if _uploads[actor.user_id] >= context.settings.uploads_per_user:
        raise TooMany(f"At most {context.settings.uploads_per_user} uploads at once.", 1)
    _uploads[actor.user_id] += 1
    try:
        return await _receive(request, context, actor)
    finally:
        _uploads[actor.user_id] -= 1
        if not _uploads[actor.user_id]:
            del _uploads[actor.user_id]


async def _receive(request: Request, context: AppContext, actor: Actor) -> dict[str, object]:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data":
        raise WrongKind("Send multipart/form-data with a file and a path.")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise InvalidInput.of("body", f"needs a boundary of at most {MAX_BOUNDARY_BYTES} characters")
    limit = await _size_limit(request, context, actor)
    fd, incoming = await run_in_threadpool(context.store.incoming)
    try:
        form = _Form(boundary, fd, limit)
        await _fill(request, context, form)
        path = _path_of(form)
        await run_in_threadpool(os.fsync, fd)
        return await _store(context, actor, path, incoming, form.content())
    finally:
        os.close(fd)
        incoming.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Limit:
    """Most bytes of the file, and the error for a larger one."""

    size: int
    error: TooLarge


async def _size_limit(request: Request, context: AppContext, actor: Actor) -> _Limit:
    """Limit by settings and quota. Raises TooLarge and Unavailable if the announced length is too much."""
    most = context.settings.max_file_bytes
    limit = _Limit(most, TooLarge(f"The file is larger than {most} bytes."))
    remaining = await context.db.read(service.remaining_quota, context, actor.account_id)
    if remaining is not None and remaining < most:
        limit = _Limit(remaining, service.over_quota(remaining))
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isdecimal() else 0
    if announced > limit.size + MAX_OTHER_BYTES:
        raise limit.error
    _check_disk(context, announced)
    return limit


async def _fill(request: Request, context: AppContext, form: _Form) -> None:
    """Feed the body to the parser as it arrives, in pieces of at least `PIECE` bytes."""
    since_check = 0
    pending = bytearray()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STALL_SECONDS) as patience:
            async for piece in request.stream():
                patience.reschedule(loop.time() + STALL_SECONDS)
                pending += piece
                if len(pending) < PIECE:
                    continue
                since_check += len(pending)
                await _parse(form, pending)
                pending = bytearray()
                if since_check > CHECK_DISK_EVERY_BYTES:
                    since_check = 0
                    _check_disk(context)
            await _parse(form, pending)
    except ClientDisconnect:
        raise InvalidInput.of("body", "ended in the middle of the file: send it again") from None
    except TimeoutError:
        raise InvalidInput.of("body", f"made no progress for {STALL_SECONDS} seconds") from None
    if not form.ended:
        raise InvalidInput.of("body", "ended without its closing boundary: send the file again")


async def _parse(form: _Form, data: bytearray) -> None:
    try:
        await run_in_threadpool(form.feed, bytes(data))
    except ValueError as error:
        raise InvalidInput.of("body", f"is not well-formed multipart: {error}") from None


def _path_of(form: _Form) -> str:
    """The normalised path. Raises InvalidInput with every bad field, including digests that differ."""
    errors = [
        FieldError(name, "is not a field of this form: file, path, md5, sha256") for name in form.unknown
    ]
    errors += [FieldError(name, "is given more than once") for name in form.repeated]
    if not form.files:
        errors.append(FieldError("file", "is missing"))
    path = ""
    try:
        path = normalise(form.fields["path"].decode()).text
    except KeyError:
        errors.append(FieldError("path", "is missing: the file's path on your machine"))
    except ValueError as error:
        text = "is not valid UTF-8" if isinstance(error, UnicodeError) else str(error)
        errors.append(FieldError("path", text, bytes(form.fields["path"][:200])))
    content = form.content()
    md5 = form.fields.get("md5", b"").decode("latin-1").strip()
    sha256 = form.fields.get("sha256", b"").decode("latin-1").strip().lower()
    if md5 and md5_hex(md5) is None:
        errors.append(FieldError("md5", "must be 32 hex digits, or 24 characters of base64", md5[:100]))
    elif md5 and md5_hex(md5) != content.md5 and form.files:
        errors.append(FieldError("md5", _differs(content.md5), md5))
    if sha256 and sha256 != content.sha256 and form.files:
        errors.append(FieldError("sha256", _differs(content.sha256), sha256[:100]))
    if errors:
        raise InvalidInput(errors)
    return path


def _differs(digest: str) -> str:
    return f"does not match: the bytes that arrived have {digest}; send the file again"


def _check_disk(context: AppContext, announced: int = 0) -> None:
    if context.store.free_bytes() - announced < context.settings.free_disk_floor_bytes:
        raise Unavailable("The farm's disk is nearly full; nothing was stored.", 60)


async def _store(
    context: AppContext, actor: Actor, path: str, incoming: Path, content: service.Content
) -> dict[str, object]:
    """Make the received bytes content of the account. Equal files that arrive at once are stored once."""
    while True:
        generation = await context.db.read(service.next_generation, actor.account_id, content.sha256)
        key = None
        if generation is not None:
            key = keys.content(actor.account_id, content.sha256, generation)
            await run_in_threadpool(partial(context.store.take, incoming, key, if_absent=True))
        object_needed, refused = False, None
        try:
            answer = await context.db.write(service.store_content, context, actor, path, content, generation)
            object_needed = not answer["deduplicated"]
        except service.ContentMoved:
            answer = None
        except TooLarge as error:
            answer, refused = None, error
        # After any other exception the row may be committed: retention removes an object without a row.
        if key is not None and not object_needed:
            await run_in_threadpool(context.store.delete, key)
            context.store.prune_folder(key)
        if refused is not None:
            raise refused
        if answer is not None:
            return answer
