"""Routes of rendered files and thumbnails, by their signed URLs."""

from __future__ import annotations

import io
import mimetypes
import os
import time
import urllib.parse
from collections.abc import Iterator
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from framefarm.core.errors import NotFound
from framefarm.server.catalog import destinations
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.http.openapi import MAY_REFUSE
from framefarm.server.jobs.tables import jobs
from framefarm.server.outputs import signed_urls, thumbnails
from framefarm.server.outputs.publisher import RenderedFile
from framefarm.server.sessions.tables import files
from framefarm.server.tenancy import farmwide

router = APIRouter(prefix="/api", tags=["files"])
PIECE = 1 << 18
"""Bytes read and sent at a time."""


def _find_file(tx: Tx, file_id: int) -> RenderedFile | None:
    query = farmwide(sa.select(files, jobs.c.output_url).join(jobs, jobs.c.id == files.c.job_id))
    return tx.row_or_none(RenderedFile, query.where(files.c.id == file_id))


def _open(context: AppContext, row: RenderedFile) -> io.FileIO:
    """Open the file in staging, else at its destination. Raises NotFound if it is in neither, or changed."""
    try:
        fd = os.open(context.store.path(row.staged), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        try:
            fd = destinations.open_output(context, row.output_url, row.path)
        except (OSError, ValueError):
            raise NotFound("The file is no longer at its output destination.") from None
        if row.replaced_by is not None:
            os.close(fd)
            raise NotFound(f"The file was replaced by one of job {row.replaced_by}.") from None
    file = io.FileIO(fd)
    if os.fstat(fd).st_size != row.size:
        file.close()
        raise NotFound("The file was changed or replaced since it was rendered.")
    return file


@router.get(
    "/files/{file_id}",
    response_class=Response,
    responses=MAY_REFUSE
    | {
        200: {"description": "The whole file", "content": {"*/*": {}}},
        206: {"description": "The range of bytes asked for", "content": {"*/*": {}}},
    },
    summary="A rendered file, by its signed address",
)
async def get_file(
    request: Request,
    file_id: int,
    expires: Annotated[int, Query(ge=0, le=1 << 50)],
    signature: Annotated[str, Query(max_length=128)],
) -> Response:
    context = context_of(request)
    row = await context.db.read(_find_file, file_id) if 0 < file_id < 1 << 62 else None
    row = signed_urls.check_file(context, row, expires, signature)
    file = await run_in_threadpool(_open, context, row)
    start, end, status = _range(request.headers.get("range"), row.size)
    name = urllib.parse.quote(row.path.rsplit("/", 1)[-1])
    headers = {
        "Content-Length": str(end - start),
        "Accept-Ranges": "bytes",
        "ETag": f'"{row.sha256}"',
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{row.size}"
    media_type = mimetypes.guess_type(row.path)[0] or "application/octet-stream"
    return StreamingResponse(_stream(file, start, end), status, headers, media_type=media_type)


def _range(text: str | None, size: int) -> tuple[int, int, int]:
    """(start, end, HTTP status) of a `Range` header's only byte range (RFC 9110), else of the whole file."""
    if text is None or not text.startswith("bytes=") or "," in text:
        return 0, size, 200
    first, _, last = text[6:].partition("-")
    try:
        if not first:
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(size, int(last) + 1 if last else size)
    except ValueError:
        return 0, size, 200
    return (start, end, 206) if 0 <= start < end else (0, size, 200)


def _stream(file: io.FileIO, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `end`, then close the file.

    If the client leaves before the first piece, the file is closed by its finaliser.
    """
    with file:
        while start < end and (piece := os.pread(file.fileno(), min(PIECE, end - start), start)):
            start += len(piece)
            yield piece


@router.get(
    "/jobs/{job_id}/frames/{frame}/thumbnail",
    response_class=Response,
    responses=MAY_REFUSE | {200: {"description": "The picture", "content": {"image/webp": {}}}},
    summary="A frame's thumbnail, by its signed address",
)
async def get_thumbnail(
    request: Request,
    job_id: str,
    frame: int,
    revision: Annotated[int, Query(ge=0, lt=1 << 31)],
    expires: Annotated[int, Query()],
    signature: Annotated[str, Query(max_length=128)],
) -> Response:
    context = context_of(request)
    row = None
    if len(job_id) <= 64 and abs(frame) < 1 << 31:
        row = await context.db.read(thumbnails.find, job_id, frame, revision)
    row = signed_urls.check_thumbnail(context, row, expires, signature)
    if row.thumbnail_bytes is None:
        raise NotFound("The frame has no thumbnail yet.")
    headers = {
        "Content-Disposition": "inline",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": f"private, max-age={int(expires - time.time())}",
    }
    content = await run_in_threadpool(thumbnails.read, context, row)
    return Response(content, headers=headers, media_type="image/webp")
