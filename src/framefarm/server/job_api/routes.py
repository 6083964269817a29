"""Routes of `/api/jobs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from framefarm.core.errors import InvalidInput
from framefarm.protocol.api_jobs import (
    AttemptPage,
    DryRun,
    FilePage,
    FramePage,
    JobChange,
    JobDetail,
    JobPage,
    JobTask,
    Retried,
    Retry,
    TaskPage,
)
from framefarm.protocol.timestamps import Moment
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.callers import Caller
from framefarm.server.actor import Actor
from framefarm.server.catalog import destinations
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.events.streams import Followed, Streams
from framefarm.server.files import manifests
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command, recall
from framefarm.server.http.openapi import TAKES_KEY
from framefarm.server.http.paging import Paging
from framefarm.server.http.request_limits import ReadOnce
from framefarm.server.job_api import actions, children, detail, summary
from framefarm.server.json_types import Answer
from framefarm.server.outputs import thumbnails
from framefarm.server.outputs.signed_urls import sign_file, sign_thumbnail
from framefarm.server.submission import storing, validation
from framefarm.server.submission.parsing import Submitted

router = APIRouter(prefix="/api/jobs", tags=["jobs"], route_class=ReadOnce)
JobId = Annotated[str, Path(max_length=100)]
TaskNumber = Annotated[int, Path(ge=0, le=10_000_000)]
FOLLOW_SECONDS = 0.5


@router.get("", response_model=JobPage, summary="List all jobs for your account")
async def list_jobs(
    request: Request,
    actor: Caller,
    paging: Paging,
    status: str | None = None,
    project: str | None = None,
    user: str | None = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
) -> Answer:
    filters = [status, project, user, q, str(created_after), str(created_before)]
    after = paging.after("jobs", filters, actor)
    rows = await context_of(request).db.read(
        summary.listing,
        actor,
        status=status,
        project=project,
        user=user,
        q=q,
        created_after_ms=_ms(created_after),
        created_before_ms=_ms(created_before),
        after=after[0] if after else None,
        limit=paging.limit + 1,
    )
    rows = [_with_dispatchers_reason(context_of(request), row) for row in rows]
    return paging.page("jobs", filters, actor, rows, lambda row: [row["id"]])


def _with_dispatchers_reason(context: AppContext, job: Answer) -> Answer:
    """Put in the dispatcher's reason why a job waits for a session, if it has one."""
    if job["status"] in {"pending", "running"} and job["id"] in context.waiting:
        job["waiting_for"] = context.waiting[job["id"]]
    return job


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


@router.post(
    "",
    status_code=201,
    response_model=JobDetail,
    responses={
        200: {
            "model": DryRun,
            "description": "The result of a submission that stores nothing: `dry_run=true`",
        }
    },
    summary="Submit a new render job",
    openapi_extra=TAKES_KEY,
)
async def submit_job(
    request: Request, actor: Caller, submitted: Annotated[Submitted, Body()], dry_run: bool = False
) -> Response:
    context, body = context_of(request), submitted.body
    encode = partial(_encode_kept, context, actor.account_id)
    if not submitted.errors and (kept := await recall(request, actor, body, encode)) is not None:
        return kept
    prepared = await _prepare(context, actor, submitted)
    if dry_run:
        return Response(
            DryRun(**storing.dry_run(prepared)).model_dump_json(), 200, media_type="application/json"
        )
    for _ in range(10):
        prepared.manifest_sha256 = await run_in_threadpool(
            manifests.store, context.store, actor.account_id, prepared.snapshot.entries
        )
        try:
            return await command(
                request, actor, body, _submit, context, actor, prepared, status=201, encode=encode
            )
        except storing.SnapshotMoved:
            prepared = await _prepare(context, actor, submitted)
    raise RuntimeError("the inputs of this job keep changing")


async def _prepare(context: AppContext, actor: Actor, submitted: Submitted) -> validation.Prepared:
    actor.must_write()
    destination = await context.db.read(validation.destination_of, context, actor, submitted)
    unwritable = None if destination is None else await run_in_threadpool(_unwritable, destination)
    return await context.db.read(validation.prepare, context, actor, submitted, unwritable)


def _unwritable(destination: destinations.OutputDestination) -> InvalidInput | None:
    try:
        destinations.check_writable(destination)
    except InvalidInput as error:
        return error
    return None


MANIFEST = "manifest"
"""Field of an answer kept for its idempotency key: the SHA-256 of the manifest, in place of the inputs."""


def _submit(tx: Tx, context: AppContext, actor: Actor, prepared: validation.Prepared) -> Answer:
    job_id = storing.store(tx, context, actor, prepared)
    answer, _ = detail.detail(tx, actor, job_id, partial(sign_thumbnail, context))
    return answer | {MANIFEST: prepared.manifest_sha256}


def _encode_kept(context: AppContext, account_id: str, kept: Answer) -> bytes:
    answer = {name: value for name, value in kept.items() if name != MANIFEST}
    return detail.encode(context.store, account_id, kept[MANIFEST], answer)


@router.get("/{job_id}", response_model=JobDetail, summary="Get detailed information about a single job")
async def get_job(request: Request, actor: Caller, job_id: JobId) -> Response:
    context = context_of(request)
    answer, (account, manifest) = await context.db.read(
        detail.detail, actor, job_id, partial(sign_thumbnail, context)
    )
    body = await run_in_threadpool(
        detail.encode, context.store, account, manifest, _with_dispatchers_reason(context, answer)
    )
    return Response(body, media_type="application/json")


@router.patch(
    "/{job_id}", response_model=JobDetail, summary="Update a job: hold, unhold, cancel, or priority"
)
async def change_job(request: Request, actor: Caller, job_id: JobId, body: JobChange) -> Response:
    context = context_of(request)
    await context.db.write(actions.change, actor, job_id, body)
    return await get_job(request, actor, job_id)


@router.delete("/{job_id}", status_code=204, summary="Delete a completed or cancelled job")
async def delete_job(request: Request, actor: Caller, job_id: JobId) -> Response:
    context = context_of(request)
    await context.db.write(actions.delete, actor, job_id)
    removal = BackgroundTask(thumbnails.remove, context, actor.account_id, job_id)
    return Response(status_code=204, background=removal)


@router.post(
    "/{job_id}/retry",
    response_model=Retried,
    summary="Retry all failed tasks, or some frames",
    openapi_extra=TAKES_KEY,
)
async def retry_job(request: Request, actor: Caller, job_id: JobId, body: Retry | None = None) -> Response:
    retry = body or Retry()

    def work(tx: Tx) -> Answer:
        return {"retried": actions.retry(tx, actor, job_id, retry)}

    return await command(request, actor, retry, work)


@router.get("/{job_id}/tasks", response_model=TaskPage, summary="The job's tasks")
async def list_tasks(request: Request, actor: Caller, paging: Paging, job_id: JobId) -> Answer:
    after = paging.after("tasks", [job_id], actor)
    start = after[0] if after else -1
    rows = await context_of(request).db.read(children.task_page, actor, job_id, start, paging.limit + 1)
    return paging.page("tasks", [job_id], actor, rows, lambda row: [int(row["number"])])


@router.get("/{job_id}/tasks/{number}", response_model=JobTask, summary="One task")
async def get_task(request: Request, actor: Caller, job_id: JobId, number: TaskNumber) -> Answer:
    return await context_of(request).db.read(children.one_task, actor, job_id, number)


@router.post(
    "/{job_id}/tasks/{number}/retry",
    response_model=Retried,
    summary="Retry one failed or preempted task",
    openapi_extra=TAKES_KEY,
)
async def retry_task(request: Request, actor: Caller, job_id: JobId, number: TaskNumber) -> Response:
    def work(tx: Tx) -> Answer:
        return {"retried": actions.retry_task(tx, actor, job_id, number)}

    return await command(request, actor, None, work)


@router.get(
    "/{job_id}/tasks/{number}/log",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
    summary="Blender's output, all attempts one after the other",
)
async def task_log(
    request: Request,
    actor: Caller,
    job_id: JobId,
    number: TaskNumber,
    offset: Annotated[int, Query(ge=0, le=1 << 50)] = 0,
    follow: bool = False,
) -> Response:
    context = context_of(request)
    await context.db.read(children.one_task, actor, job_id, number)

    async def chunks() -> AsyncIterator[bytes]:
        position = offset
        while True:
            task = await context.db.read(children.one_task, actor, job_id, number)
            keys = await context.db.read(children.log_keys, actor, job_id, number)
            while piece := await run_in_threadpool(_read_logs, context, keys, position):
                position += len(piece)
                yield piece
            live = task["status"] in {"waiting", "pending", "running"}
            if not follow or not live or context.draining:
                return
            if not await context.db.read(accounts.is_live, actor):
                return
            await asyncio.sleep(FOLLOW_SECONDS)

    streams: Streams = request.app.state.streams
    give_back = streams.claim_stream(actor) if follow else lambda: None
    headers = {"X-Content-Type-Options": "nosniff"}
    return Followed(chunks(), give_back, media_type="text/plain; charset=utf-8", headers=headers)


def _read_logs(context: AppContext, keys: list[str], position: int) -> bytes:
    """Up to 256 KiB of the logs from byte `position`, as if they were one file."""
    for key in keys:
        path = context.store.path(key)
        try:
            with open(path, "rb") as file:
                size = file.seek(0, 2)
                if position < size:
                    file.seek(position)
                    return file.read(256 << 10)
                position -= size
        except FileNotFoundError:
            continue
    return b""


@router.get("/{job_id}/frames", response_model=FramePage, summary="Every frame of the job, in order")
async def list_frames(request: Request, actor: Caller, paging: Paging, job_id: JobId) -> Answer:
    context = context_of(request)
    after = paging.after("frames", [job_id], actor)
    start = after[0] if after else -1
    rows = await context.db.read(
        children.frame_page,
        actor,
        job_id,
        start,
        paging.limit + 1,
        lambda row: sign_file(context, row),
        partial(sign_thumbnail, context),
    )
    position = {row["frame"]: start + 1 + i for i, row in enumerate(rows)}
    return paging.page("frames", [job_id], actor, rows, lambda row: [position[row["frame"]]])


@router.get("/{job_id}/files", response_model=FilePage, summary="The files the job has made, with addresses")
async def list_files(request: Request, actor: Caller, paging: Paging, job_id: JobId) -> Answer:
    context = context_of(request)
    after = paging.after("files", [job_id], actor)
    rows = await context.db.read(
        children.file_page,
        actor,
        job_id,
        after[0] if after else 0,
        paging.limit + 1,
        lambda row: sign_file(context, row),
    )
    answer = paging.page("files", [job_id], actor, rows, lambda row: [row[0]])
    return answer | {"data": [file for _, file in answer["data"]]}


@router.get("/{job_id}/attempts", response_model=AttemptPage, summary="Every attempt of every task")
async def list_attempts(request: Request, actor: Caller, paging: Paging, job_id: JobId) -> Answer:
    after = paging.after("attempts", [job_id], actor)
    start = after[0] if after else ""
    rows = await context_of(request).db.read(children.attempt_page, actor, job_id, start, paging.limit + 1)
    return paging.page("attempts", [job_id], actor, rows, lambda row: [row["id"]])
