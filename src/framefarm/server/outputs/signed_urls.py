"""Signed URLs of rendered files and thumbnails, and their expiry times.

A URL lets its holder read one file until it expires, without a token. Its signature (HMAC-SHA256, by a key
derived from the farm's secret) covers everything that identifies the file's bytes, and the expiry time (in
seconds since 1970).
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
"""A file's URL expires this long after it was signed."""
THUMBNAIL_SECONDS = 3600
"""A thumbnail's URL expires at most this long after it was signed."""
THUMBNAIL_STEP_SECONDS = 1800
"""Expiry times of thumbnails are multiples of this: an equal URL lets a browser use its cached picture."""
BAD_FILE = "This URL is not valid or has expired: ask for the job's files again."
BAD_THUMBNAIL = "This URL is not valid or has expired: ask for the job's frames again."


def sign_file(context: AppContext, row: FileRow) -> str:
    """Absolute URL of a committed file, which expires after `FILE_SECONDS`."""
    expires = int(time.time()) + FILE_SECONDS
    query = urllib.parse.urlencode({"expires": expires, "signature": _file_signature(context, row, expires)})
    return f"{context.base_url()}/api/files/{row.id}?{query}"


def check_file(context: AppContext, row: F | None, expires: int, signature: str) -> F:
    """Return the row. Raises NotAllowed if it is None, or the URL has expired or was not signed for it."""
    if row is None or not _is_valid_time(expires, FILE_SECONDS):
        raise NotAllowed(BAD_FILE)
    if not _is_equal(_file_signature(context, row, expires), signature):
        raise NotAllowed(BAD_FILE)
    return row


def sign_thumbnail(context: AppContext, account_id: str, row: FrameRow) -> str | None:
    """Absolute URL of a frame's thumbnail, which expires after 30 to 60 minutes; None without a thumbnail."""
    if row.thumbnail_bytes is None:
        return None
    expires = (int(time.time()) // THUMBNAIL_STEP_SECONDS + 2) * THUMBNAIL_STEP_SECONDS
    signature = _thumbnail_signature(context, account_id, row, expires)
    query = urllib.parse.urlencode({"revision": row.revision, "expires": expires, "signature": signature})
    return f"{context.base_url()}/api/jobs/{row.job_id}/frames/{row.frame}/thumbnail?{query}"


def check_thumbnail(
    context: AppContext, row: CommittedFrame | None, expires: int, signature: str
) -> CommittedFrame:
    """Return the row. Raises NotAllowed if it is None, or the URL has expired or was not signed for it."""
    if row is None or not _is_valid_time(expires, THUMBNAIL_SECONDS):
        raise NotAllowed(BAD_THUMBNAIL)
    if not _is_equal(_thumbnail_signature(context, row.account_id, row, expires), signature):
        raise NotAllowed(BAD_THUMBNAIL)
    return row


def _file_signature(context: AppContext, row: FileRow, expires: int) -> str:
    signed: list[object] = ["GET", row.account_id, row.id, row.staged, row.size, row.path, expires]
    return _digest(context, "signed-url", signed)


def _thumbnail_signature(context: AppContext, account_id: str, row: FrameRow, expires: int) -> str:
    signed: list[object] = ["GET", account_id, row.job_id, row.frame, row.revision, row.attempt_id, expires]
    return _digest(context, "signed-thumbnail", signed)


def _digest(context: AppContext, purpose: str, signed: list[object]) -> str:
    text = json.dumps(signed, separators=(",", ":"))
    return hmac.new(context.keys.key(purpose), text.encode(), "sha256").hexdigest()


def _is_valid_time(expires: int, seconds: int) -> bool:
    return 0 < expires - time.time() <= seconds


def _is_equal(expected: str, signature: str) -> bool:
    return signature.isascii() and hmac.compare_digest(expected, signature)
