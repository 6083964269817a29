"""Pages of a list, with signed cursors."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from framefarm.core.errors import InvalidInput
from framefarm.server.actor import Actor
from framefarm.server.http.context import context_of


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`?limit=…&cursor=…`: a cursor is signed, and bound to its route, filters and account."""

    limit: int
    cursor: str | None
    key: bytes

    def after(self, route: str, filters: Sequence[Any], actor: Actor) -> list[Any] | None:
        """What the cursor carries; None for the first page. Raises InvalidInput."""
        if self.cursor is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(self.cursor.encode("ascii") + b"=" * (-len(self.cursor) % 4))
            mac, body = raw[:16], raw[16:]
            if not hmac.compare_digest(mac, self._mac(body, route, filters, actor)):
                raise ValueError
            values: list[Any] = json.loads(body)
        except ValueError:
            text = "is not a cursor of this list, with these filters; start again without it"
            raise InvalidInput.of("cursor", text, self.cursor[:100]) from None
        return values

    def page(
        self,
        route: str,
        filters: Sequence[Any],
        actor: Actor,
        rows: list[Any],
        values: Callable[[Any], list[Any]],
    ) -> dict[str, Any]:
        """An answer from up to `limit + 1` rows: the extra one only tells that there are more."""
        data = rows[: self.limit]
        cursor = None
        if len(rows) > self.limit:
            body = json.dumps(values(data[-1])).encode()
            raw = self._mac(body, route, filters, actor) + body
            cursor = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return {"data": data, "next_cursor": cursor}

    def _mac(self, body: bytes, route: str, filters: Sequence[Any], actor: Actor) -> bytes:
        bound = json.dumps([route, list(filters), actor.account_id]).encode()
        return hmac.digest(self.key, bound + b"\0" + body, "sha256")[:16]


async def _paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> PageRequest:
    return PageRequest(limit, cursor, context_of(request).keys.key("cursor"))


Paging = Annotated[PageRequest, Depends(_paging)]
