"""Requests and answers of the public API for webhooks and their deliveries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr

from framefarm.protocol.base import Page, Strict

EventType = Annotated[StrictStr, Field(pattern=r"^(\*|[a-z]+\.(\*|[a-z_]+))$", max_length=100)]
"""An event type or pattern: `job.status`, `job.*` or `*`. docs/events.md lists the types."""
Url = Annotated[StrictStr, Field(min_length=1, max_length=2000)]
Types = Annotated[list[EventType], Field(min_length=1, max_length=50)]
Description = Annotated[StrictStr, Field(max_length=200)]


class NewWebhook(Strict):
    """`POST /api/webhooks`. `events` are the types to send; `["*"]` is every type, also later ones."""

    url: Url
    events: Types = ["*"]
    description: Description = ""
    enabled: StrictBool = True


class WebhookChange(Strict):
    """`PATCH /api/webhooks/{id}`. `rotate_secret` makes a new secret, shown once in the answer."""

    url: Url | None = None
    events: Types | None = None
    description: Description | None = None
    enabled: StrictBool | None = None
    rotate_secret: StrictBool = False


class Webhook(BaseModel):
    id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    created_at: str
    pending: int
    """Number of deliveries that wait for their first or next attempt."""
    failed: int
    """Number of deliveries that were given up; they can be sent again on request."""


class WebhookWithSecret(Webhook):
    secret: str | None = None
    """`whsec_…`, shown only in the answer to the request that created it."""


class WebhookPage(Page):
    data: list[Webhook]


class Delivery(BaseModel):
    """Delivery of one event to one webhook. `id` is the `webhook-id` header of every attempt."""

    id: str
    webhook: str
    job: str
    event_type: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    created_at: str
    last_attempt_at: str | None
    next_attempt_at: str | None
    response_status: int | None
    error: str | None


class DeliveryPage(Page):
    data: list[Delivery]
