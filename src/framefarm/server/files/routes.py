"""`/api/uploads/*`, and the signed addresses under which a job's files are served."""

from __future__ import annotations

import hmac
import io
import json
import mimetypes
import os
import time
import urllib.parse
from collections.abc import Iterator
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from framefarm.core.errors import NotAllowed, NotFound
from framefarm.protocol.api_files import Exists, ExistsMany, FileCheck, Md5Request, Uploaded
from framefarm.server.accounts.callers import Writer
from framefarm.server.catalog import destinations
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.files import service, uploads
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.request_limits import ReadOnce
from framefarm.server.jobs.tables import jobs
from framefarm.server.sessions.tables import files
from framefarm.server.tenancy import farmwide

router = APIRouter(prefix="/api", tags=["files"], route_class=ReadOnce)
URL_SECONDS = 3600
PIECE = 1 << 18
BAD_ADDRESS = "This address is not valid, or not any more: ask for the job's files again."
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "path"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "path": {"type": "string", "description": "the file's absolute path on your machine"},
                        "md5": {"type": "string"},
                        "sha256": {"type": "string"},
                    },
                }
            }
        },
    }
}


@router.post(
    "/uploads/md5", response_model=Exists | ExistsMany, summary="Check if a file already exists by MD5 hash"
)
async def check_md5(request: Request, actor: Writer, said: Md5Request) -> Response:
    context = context_of(request)
    many = said.files
    wanted = many or [FileCheck(md5=said.md5 or "", sha256=said.sha256, path=said.path, size=said.size)]

    def work(tx: Tx) -> dict[str, Any]:
        found = service.check(tx, context, actor, wanted, many=bool(many))
        return {"files": found} if many else dict(found[0])

    return await command(request, actor, said, work)


@router.post(
    "/uploads/file",
    response_model=Uploaded,
    openapi_extra=FORM,
    summary="Upload a scene file or asset to the farm storage",
)
async def upload_file(request: Request, actor: Writer) -> Any:
    return await uploads.receive(request, context_of(request), actor)


# ------------------------------------------------------------------------- signed addresses


def _signature(context: AppContext, row: Any, expires: int) -> str:
    bound = ["GET", row["account_id"], row["id"], row["staged"], row["size"], row["path"], expires]
    text = json.dumps(bound, separators=(",", ":"))
    return hmac.new(context.keys.key("signed-url"), text.encode(), "sha256").hexdigest()


def sign_file(context: AppContext, row: Any) -> str:
    """An absolute address of a committed file (a row of `files`), good for an hour, for whoever has it."""
    expires = int(time.time()) + URL_SECONDS
    query = urllib.parse.urlencode({"expires": expires, "signature": _signature(context, row, expires)})
    return f"{context.base_url()}/api/files/{row['id']}?{query}"


def _find(tx: Tx, file_id: int) -> Any:
    query = farmwide(sa.select(files, jobs.c.output_url).join(jobs, jobs.c.id == files.c.job_id))
    return tx.conn.execute(query.where(files.c.id == file_id)).mappings().one_or_none()


def _open(context: AppContext, row: Any) -> io.FileIO:
    """The bytes, staged or published. Raises NotFound when neither place has them (any more)."""
    try:
        fd = os.open(context.store.path(row["staged"]), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        try:
            fd = destinations.open_output(context, row["output_url"], row["path"])
        except (OSError, ValueError):
            raise NotFound("The file is not there any more.") from None
        if row["replaced_by"] is not None:
            os.close(fd)
            raise NotFound(f"The file was replaced by one of job {row['replaced_by']}.") from None
    file = io.FileIO(fd)
    if os.fstat(fd).st_size != row["size"]:
        file.close()
        raise NotFound("The file was changed or replaced since it was rendered.")
    return file


@router.get(
    "/files/{file_id}",
    response_class=Response,
    responses={
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
    row = await context.db.read(_find, file_id) if 0 < file_id < 1 << 62 else None
    left = expires - time.time()
    if row is None or not 0 < left <= URL_SECONDS or not signature.isascii():
        raise NotAllowed(BAD_ADDRESS)
    if not hmac.compare_digest(_signature(context, row, expires), signature):
        raise NotAllowed(BAD_ADDRESS)
    file = await run_in_threadpool(_open, context, row)
    start, end, status = _range(request.headers.get("range"), row["size"])
    name = urllib.parse.quote(row["path"].rsplit("/", 1)[-1])
    headers = {
        "Content-Length": str(end - start),
        "Accept-Ranges": "bytes",
        "ETag": f'"{row["sha256"]}"',
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{row['size']}"
    kind = mimetypes.guess_type(row["path"])[0] or "application/octet-stream"
    return StreamingResponse(_stream(file, start, end), status, headers, media_type=kind)


def _range(text: str | None, size: int) -> tuple[int, int, int]:
    """(start, end, status) of a single byte range; anything else is the whole file."""
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
    """A client that leaves before the first piece leaves the file to its finaliser."""
    with file:
        while start < end and (piece := os.pread(file.fileno(), min(PIECE, end - start), start)):
            start += len(piece)
            yield piece
