"""Pages of a list, with signed cursors. Lists are ordered; a cursor holds the sort values of its last row."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request

from framefarm.core.errors import InvalidInput
from framefarm.server.actor import Actor
from framefarm.server.http.context import context_of
from framefarm.server.json_types import Answer, Json

Row = TypeVar("Row")
Filters = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Query parameters `limit` and `cursor`. A cursor is signed with `key`, and bound to its list's name
    (`route`), its filters and the caller's account."""

    limit: int
    cursor: str | None
    key: bytes

    def after(self, route: str, filters: Filters, actor: Actor) -> list[Json] | None:
        """Sort values behind which the page begins (free JSON: each list has its own); None: the first page.

        Raises InvalidInput for a cursor that is of another list, or forged.
        """
        if self.cursor is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(self.cursor.encode("ascii") + b"=" * (-len(self.cursor) % 4))
            mac, body = raw[:16], raw[16:]
            if not hmac.compare_digest(mac, self._mac(body, route, filters, actor)):
                raise ValueError
            values: list[Json] = json.loads(body)
        except ValueError:
            text = "is not a cursor of this list, with these filters; start again without it"
            raise InvalidInput.of("cursor", text, self.cursor[:100]) from None
        return values

    def page(
        self,
        route: str,
        filters: Filters,
        actor: Actor,
        rows: list[Row],
        sort_values: Callable[[Row], list[Json]],
    ) -> Answer:
        """A page of the first `limit` rows. Pass up to `limit + 1`: the extra row shows that more exist."""
        data = rows[: self.limit]
        cursor = None
        if len(rows) > self.limit:
            body = json.dumps(sort_values(data[-1])).encode()
            raw = self._mac(body, route, filters, actor) + body
            cursor = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return {"data": data, "next_cursor": cursor}

    def _mac(self, body: bytes, route: str, filters: Filters, actor: Actor) -> bytes:
        bound = json.dumps([route, list(filters), actor.account_id]).encode()
        return hmac.digest(self.key, bound + b"\0" + body, "sha256")[:16]


async def _paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> PageRequest:
    return PageRequest(limit, cursor, context_of(request).keys.key("cursor"))


Paging = Annotated[PageRequest, Depends(_paging)]
