"""Thumbnails of frames: small pictures that the farm itself drew, served inline by signed addresses."""

from __future__ import annotations

import hmac
import io
import json
import os
import shutil
import stat
import time
import urllib.parse
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from framefarm.core.errors import NotAllowed, NotFound
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.jobs.tables import jobs
from framefarm.server.sessions.tables import frames
from framefarm.server.tenancy import farmwide

router = APIRouter(prefix="/api", tags=["files"])
URL_SECONDS = 3600
STEP_SECONDS = 1800
"""Addresses change no oftener, so that a browser need not fetch a picture again for each look at a page."""
BAD_ADDRESS = "This address is not valid, or not any more: ask for the job's frames again."


def folder(account_id: str, job_id: str) -> str:
    """Key of a job's thumbnails."""
    return f"thumbnails/{account_id}/{job_id}"


def _signature(context: AppContext, account_id: str, row: Any, expires: int) -> str:
    bound = ["GET", account_id, row["job_id"], row["frame"], row["revision"], row["attempt_id"], expires]
    text = json.dumps(bound, separators=(",", ":"))
    return hmac.new(context.keys.key("signed-thumbnail"), text.encode(), "sha256").hexdigest()


def sign(context: AppContext, account_id: str, row: Any) -> str | None:
    """An absolute address of a frame's thumbnail (a row of `frames`), good for 30 to 60 minutes, for whoever
    has it; None if there is none."""
    if row["thumbnail_bytes"] is None:
        return None
    expires = (int(time.time()) // STEP_SECONDS + 2) * STEP_SECONDS
    signature = _signature(context, account_id, row, expires)
    query = urllib.parse.urlencode({"revision": row["revision"], "expires": expires, "signature": signature})
    return f"{context.base_url()}/api/jobs/{row['job_id']}/frames/{row['frame']}/thumbnail?{query}"


def _find(tx: Tx, job_id: str, frame: int, revision: int) -> Any:
    query = farmwide(sa.select(frames, jobs.c.account_id).join(jobs, jobs.c.id == frames.c.job_id)).where(
        frames.c.job_id == job_id,
        frames.c.frame == frame,
        frames.c.part == 0,
        frames.c.revision == revision,
        jobs.c.deleted_ms.is_(None),
    )
    return tx.conn.execute(query).mappings().one_or_none()


def _read(context: AppContext, row: Any) -> bytes:
    """Raises NotFound if it is not there (any more), or is not the one that was told of."""
    key = f"{folder(row['account_id'], row['job_id'])}/{row['attempt_id']}-{row['frame']}.webp"
    try:
        fd = os.open(context.store.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise NotFound("The thumbnail is not there any more.") from None
    with io.FileIO(fd) as file:
        status = os.fstat(fd)
        content = file.read(row["thumbnail_bytes"]) if stat.S_ISREG(status.st_mode) else b""
    if content is None or status.st_size != row["thumbnail_bytes"] or content[8:12] != b"WEBP":
        raise NotFound("The thumbnail was not written whole.")
    return content


@router.get(
    "/jobs/{job_id}/frames/{frame}/thumbnail",
    response_class=Response,
    responses={200: {"description": "The picture", "content": {"image/webp": {}}}},
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
        row = await context.db.read(_find, job_id, frame, revision)
    left = expires - time.time()
    if row is None or not 0 < left <= URL_SECONDS or not signature.isascii():
        raise NotAllowed(BAD_ADDRESS)
    if not hmac.compare_digest(_signature(context, row["account_id"], row, expires), signature):
        raise NotAllowed(BAD_ADDRESS)
    if row["thumbnail_bytes"] is None:
        raise NotFound("The frame has no thumbnail yet.")
    headers = {
        "Content-Disposition": "inline",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": f"private, max-age={int(left)}",
    }
    content = await run_in_threadpool(_read, context, row)
    return Response(content, headers=headers, media_type="image/webp")


def remove(context: AppContext, account_id: str, job_id: str) -> None:
    """Remove the thumbnails of a deleted job; blocks."""
    shutil.rmtree(context.store.path(folder(account_id, job_id)), ignore_errors=True)
