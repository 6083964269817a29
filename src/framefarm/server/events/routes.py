"""`/api/events` and `/api/jobs/{id}/events`: server-sent events, resumable with `Last-Event-ID`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.types import Receive, Scope, Send

from framefarm.server.accounts.callers import Caller
from framefarm.server.actor import Actor
from framefarm.server.events.service import StreamKind, last_event_id
from framefarm.server.events.streams import Followed, Stream, Streams
from framefarm.server.json_types import Answer

router = APIRouter(tags=["events"])
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID", description="The id of the last event that was seen; EventSource sends it."
    ),
]
Follow = Annotated[bool, Query(description="false: send what is there, and end.")]
ANSWERS: dict[int | str, Answer] = {
    200: {
        "description": "A stream of events that continues until the client leaves.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


class EventStream(Followed):
    """Response that sends a stream, and removes it from the reader however it ends.

    FastAPI's own event response encodes each event once per client; the reader here encodes it once for all.
    """

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, stream: Stream, give_back: Callable[[], None], *, follow: bool):
        headers = {
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "X-Content-Type-Options": "nosniff",
        }

        def ended() -> None:
            streams.remove(stream)
            give_back()

        super().__init__(streams.body(stream, follow=follow), ended, headers=headers)
        self._scope = stream.scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._scope:
            await super().__call__(scope, receive, send)


async def _answer(
    request: Request, kind: StreamKind, key: str, actor: Actor, seen: str | None, follow: bool
) -> EventStream:
    streams: Streams = request.app.state.streams
    give_back = streams.claim_stream(actor)
    try:
        stream = await streams.open(kind, key, actor, last_event_id(seen))
    except BaseException:
        give_back()
        raise
    return EventStream(streams, stream, give_back, follow=follow)


@router.get(
    "/api/events",
    response_class=EventStream,
    status_code=200,
    responses=ANSWERS,
    summary="Follow what happens to all jobs of your account, as server-sent events",
)
async def follow_account(
    request: Request, actor: Caller, seen: LastEventId = None, follow: Follow = True
) -> EventStream:
    return await _answer(request, "account", actor.account_id, actor, seen, follow)


@router.get(
    "/api/jobs/{job_id}/events",
    response_class=EventStream,
    status_code=200,
    responses=ANSWERS,
    summary="Follow what happens to a job, as server-sent events, from its first event on",
)
async def follow_job(
    request: Request,
    actor: Caller,
    job_id: Annotated[str, Path(max_length=100)],
    seen: LastEventId = None,
    follow: Follow = True,
) -> EventStream:
    return await _answer(request, "job", job_id, actor, seen, follow)
