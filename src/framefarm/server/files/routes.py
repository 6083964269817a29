"""Routes of `/api/uploads`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from framefarm.protocol.api_files import Exists, ExistsMany, FileCheck, Md5Request, Uploaded
from framefarm.server.accounts.callers import Writer
from framefarm.server.database import Tx
from framefarm.server.files import service, uploads
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import idempotent, throttled
from framefarm.server.http.request_limits import ReadOnce

router = APIRouter(prefix="/api", tags=["files"], route_class=ReadOnce)
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
@idempotent
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
@throttled
async def upload_file(request: Request, actor: Writer) -> Any:
    return await uploads.receive(request, context_of(request), actor)
