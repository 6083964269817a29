"""Routes of `/api/uploads`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from framefarm.protocol.api_files import Exists, ExistsMany, FileCheck, Md5Request, Uploaded
from framefarm.server.accounts.callers import Writer
from framefarm.server.database import Tx
from framefarm.server.files import service, uploads
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import TAKES_KEY, THROTTLED
from framefarm.server.http.request_limits import ReadOnce
from framefarm.server.json_types import Answer

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
    "/uploads/md5",
    response_model=Exists | ExistsMany,
    summary="Check if a file already exists by MD5 hash",
    openapi_extra=TAKES_KEY,
)
async def check_md5(request: Request, actor: Writer, body: Md5Request) -> Response:
    context = context_of(request)
    many = body.files
    wanted = many or [FileCheck(md5=body.md5 or "", sha256=body.sha256, path=body.path, size=body.size)]

    def work(tx: Tx) -> Answer:
        answers = service.check(tx, context, actor, wanted, many=bool(many))
        return {"files": answers} if many else dict(answers[0])

    return await command(request, actor, body, work)


@router.post(
    "/uploads/file",
    response_model=Uploaded,
    openapi_extra=FORM,
    summary="Upload a scene file or asset to the farm storage",
    responses=THROTTLED,
)
async def upload_file(request: Request, actor: Writer) -> Answer:
    return await uploads.receive(request, context_of(request), actor)
