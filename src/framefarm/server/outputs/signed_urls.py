"""Signed addresses of rendered files and thumbnails: whoever has one may read the file until it expires.

An address is signed with a key derived from the farm's secret, over everything that names the file's bytes.
"""

from __future__ import annotations

import hmac
import json
import time
import urllib.parse
from typing import TypeVar

from framefarm.core.errors import NotAllowed
from framefarm.server.context import AppContext
from framefarm.server.outputs.thumbnails import CommittedFrame
from framefarm.server.rows import FileRow, FrameRow

F = TypeVar("F", bound=FileRow)
FILE_SECONDS = 3600
THUMBNAIL_SECONDS = 3600
THUMBNAIL_STEP_SECONDS = 1800
"""A thumbnail's address changes this often, so that a browser keeps the picture it has fetched."""
BAD_FILE = "This address is not valid, or not any more: ask for the job's files again."
BAD_THUMBNAIL = "This address is not valid, or not any more: ask for the job's frames again."


def sign_file(context: AppContext, row: FileRow) -> str:
    """Absolute address of a committed file (a row of `files`), valid for an hour."""
    expires = int(time.time()) + FILE_SECONDS
    query = urllib.parse.urlencode({"expires": expires, "signature": _file_signature(context, row, expires)})
    return f"{context.base_url()}/api/files/{row.id}?{query}"


def check_file(context: AppContext, row: F | None, expires: int, signature: str) -> F:
    """Return the row. Raises NotAllowed if it is None, or the signature is expired or not its own."""
    if row is None or not _in_time(expires, FILE_SECONDS):
        raise NotAllowed(BAD_FILE)
    if not _same(_file_signature(context, row, expires), signature):
        raise NotAllowed(BAD_FILE)
    return row


def sign_thumbnail(context: AppContext, account_id: str, row: FrameRow) -> str | None:
    """Absolute address of a frame's thumbnail (a row of `frames`), valid for 30 to 60 minutes; None if the
    frame has no thumbnail."""
    if row.thumbnail_bytes is None:
        return None
    expires = (int(time.time()) // THUMBNAIL_STEP_SECONDS + 2) * THUMBNAIL_STEP_SECONDS
    signature = _thumbnail_signature(context, account_id, row, expires)
    query = urllib.parse.urlencode({"revision": row.revision, "expires": expires, "signature": signature})
    return f"{context.base_url()}/api/jobs/{row.job_id}/frames/{row.frame}/thumbnail?{query}"


def check_thumbnail(
    context: AppContext, row: CommittedFrame | None, expires: int, signature: str
) -> CommittedFrame:
    """Return the row. Raises NotAllowed if it is None, or the signature is expired or not its own."""
    if row is None or not _in_time(expires, THUMBNAIL_SECONDS):
        raise NotAllowed(BAD_THUMBNAIL)
    if not _same(_thumbnail_signature(context, row.account_id, row, expires), signature):
        raise NotAllowed(BAD_THUMBNAIL)
    return row


def _file_signature(context: AppContext, row: FileRow, expires: int) -> str:
    bound: list[object] = ["GET", row.account_id, row.id, row.staged, row.size, row.path, expires]
    return _digest(context, "signed-url", bound)


def _thumbnail_signature(context: AppContext, account_id: str, row: FrameRow, expires: int) -> str:
    bound: list[object] = ["GET", account_id, row.job_id, row.frame, row.revision, row.attempt_id, expires]
    return _digest(context, "signed-thumbnail", bound)


def _digest(context: AppContext, purpose: str, bound: list[object]) -> str:
    text = json.dumps(bound, separators=(",", ":"))
    return hmac.new(context.keys.key(purpose), text.encode(), "sha256").hexdigest()


def _in_time(expires: int, seconds: int) -> bool:
    return 0 < expires - time.time() <= seconds


def _same(expected: str, signature: str) -> bool:
    return signature.isascii() and hmac.compare_digest(expected, signature)
