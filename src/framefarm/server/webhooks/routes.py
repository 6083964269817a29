"""`/api/webhooks`: webhooks of an account and their deliveries, for its admins."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from framefarm.core.errors import InvalidInput
from framefarm.protocol.api_webhooks import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookPage,
    WebhookWithSecret,
)
from framefarm.server.accounts.callers import Admin
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import MAY_REFUSE, TAKES_KEY
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer
from framefarm.server.settings import Settings
from framefarm.server.webhooks import addresses, service

router = APIRouter(prefix="/api/webhooks", tags=["webhooks"])
Id = Annotated[str, Path(max_length=100)]


async def _check_url(settings: Settings, url: str) -> None:
    """Raises InvalidInput for a malformed URL, an unknown host, or an address in a private network."""
    host, port = addresses.check_url(url)
    allowed = addresses.networks(settings.webhook_allowed_networks)
    try:
        await addresses.resolve(host, port, allowed)
    except addresses.Forbidden as error:
        text = f"{error}; the operator may allow it in FRAMEFARM_WEBHOOK_ALLOWED_NETWORKS"
        raise InvalidInput.of("url", text, url[:200]) from None
    except (OSError, UnicodeError):
        raise InvalidInput.of("url", f"the name {host} can't be resolved", url[:200]) from None


@router.get("", response_model=WebhookPage, summary="The account's webhooks", responses=MAY_REFUSE)
async def list_webhooks(request: Request, actor: Admin, paging: Paging) -> Answer:
    after = paging.after("webhooks", [], actor)
    start = after[0] if after else ""
    rows = await context_of(request).db.read(service.listing, actor, start, paging.limit + 1)
    return paging.page("webhooks", [], actor, rows, lambda row: [row["id"]])


@router.post(
    "", status_code=201, response_model=WebhookWithSecret, summary="Add a webhook; its secret is shown once"
)
async def add_webhook(request: Request, actor: Admin, body: NewWebhook) -> Answer:
    context = context_of(request)
    await _check_url(context.settings, body.url)
    # No Idempotency-Key: the answer would be kept, with the secret in it.
    return await context.db.write(service.create, context.keys, actor, body)


@router.get("/{webhook_id}", response_model=Webhook, summary="One webhook", responses=MAY_REFUSE)
async def get_webhook(request: Request, actor: Admin, webhook_id: Id) -> Answer:
    return await context_of(request).db.read(service.find, actor, webhook_id)


@router.patch("/{webhook_id}", response_model=WebhookWithSecret, summary="Change a webhook, or its secret")
async def change_webhook(request: Request, actor: Admin, webhook_id: Id, body: WebhookChange) -> Answer:
    context = context_of(request)
    if body.url is not None:
        await _check_url(context.settings, body.url)
    return await context.db.write(service.change, context.keys, actor, webhook_id, body)


@router.delete("/{webhook_id}", status_code=204, summary="Remove a webhook and its deliveries")
async def delete_webhook(request: Request, actor: Admin, webhook_id: Id) -> Response:
    await context_of(request).db.write(service.delete, actor, webhook_id)
    return Response(status_code=204)


@router.get(
    "/{webhook_id}/deliveries",
    response_model=DeliveryPage,
    summary="Deliveries of a webhook, newest first",
    responses=MAY_REFUSE,
)
async def list_deliveries(
    request: Request,
    actor: Admin,
    paging: Paging,
    webhook_id: Id,
    status: Annotated[Literal["pending", "delivered", "failed"] | None, Query()] = None,
) -> Answer:
    filters = [webhook_id, status]
    after = paging.after("deliveries", filters, actor)
    before = after[0] if after else None
    read = context_of(request).db.read
    rows = await read(service.delivery_page, actor, webhook_id, status, before, paging.limit + 1)
    answer = paging.page("deliveries", filters, actor, rows, lambda row: [row.event_id])
    return answer | {"data": [service.delivery_shape(row) for row in answer["data"]]}


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/resend",
    response_model=Delivery,
    summary="Send a delivery again",
    openapi_extra=TAKES_KEY,
)
async def send_again(request: Request, actor: Admin, webhook_id: Id, delivery_id: Id) -> Response:
    return await command(request, actor, None, service.send_again, actor, webhook_id, delivery_id)
