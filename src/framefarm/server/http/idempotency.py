"""`Idempotency-Key`: a POST is worked on once, and answered alike again for a day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from fastapi import Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from framefarm.core.errors import Conflict, InFlight, InvalidInput
from framefarm.core.retention import IDEMPOTENCY_MS
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.http.tables import idempotency
from framefarm.server.tenancy import scoped

NAMES = ("account_id", "user_id", "method", "path", "key")

Encode = Callable[[Any], bytes]
"""Makes an answer of what was found and kept; runs in a thread."""


@dataclass(frozen=True, slots=True)
class _Key:
    """Whose key it is, in the order of `NAMES`, and the digest of what came with it."""

    scope: tuple[str, ...]
    body_sha256: str

    @property
    def columns(self) -> dict[str, str]:
        return dict(zip(NAMES, self.scope, strict=True))


async def _key_of(request: Request, actor: Actor, body: BaseModel | str | None) -> _Key | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidInput.of("Idempotency-Key", "must be 1 to 255 printable ASCII characters", key[:100])
    scope = (actor.account_id, actor.user_id, request.method, request.url.path, key)
    return _Key(scope, await run_in_threadpool(_digest, request, body))


def _digest(request: Request, body: BaseModel | str | None) -> str:
    """A keyed hash: the body may hold a password. Taken once of a request: the body may be large."""
    if (known := getattr(request.state, "body_sha256", None)) is None:
        text = body.model_dump_json() if isinstance(body, BaseModel) else (body or "")
        known = context_of(request).keys.digest("idempotency", f"{request.url.query}\n{text}")
        request.state.body_sha256 = known
    return str(known)


async def recall(
    request: Request, actor: Actor, body: BaseModel | str | None, encode: Encode = msgspec.json.encode
) -> Response | None:
    """What was answered to this key before, for work that is dear to prepare. Raises Conflict."""
    key = await _key_of(request, actor, body)
    kept = None if key is None else await context_of(request).db.read(_kept, key)
    return None if kept is None else await _answer(*kept, encode)


async def command(
    request: Request,
    actor: Actor,
    body: BaseModel | str | None,
    work: Any,
    *args: Any,
    status: int = 200,
    encode: Encode = msgspec.json.encode,
) -> Response:
    """Run `work(tx, …)` as the answer to a POST, once per Idempotency-Key. Raises Conflict, InFlight.

    What `work` returns is kept; `encode` makes the answer of it, each time.
    """
    context = context_of(request)
    key = await _key_of(request, actor, body)
    if key is None:
        return await _answer(status, await context.db.write(work, *args), encode)
    if key.scope in context.in_flight:
        raise _in_flight()
    context.in_flight.add(key.scope)
    try:
        return await _answer(*await context.db.write(_once, key, status, work, args), encode)
    finally:
        context.in_flight.discard(key.scope)


def _in_flight() -> InFlight:
    return InFlight("A request with this Idempotency-Key is being worked on.")


def _kept(tx: Tx, key: _Key) -> tuple[int, Any] | None:
    query = scoped(sa.select(idempotency), idempotency, key.scope[0])
    row = tx.conn.execute(query.where(*_same(key))).mappings().one_or_none()
    if row is None or tx.now_ms - row["created_ms"] >= IDEMPOTENCY_MS:
        return None
    if row["body_sha256"] != key.body_sha256:
        raise Conflict("This Idempotency-Key was used with another body.")
    return row["status"], row["answer"]


def _same(key: _Key) -> list[sa.ColumnElement[bool]]:
    return [idempotency.c[name] == value for name, value in key.columns.items()]


def _once(tx: Tx, key: _Key, status: int, work: Any, args: tuple[Any, ...]) -> tuple[int, Any]:
    _claim(tx, key)
    if (kept := _kept(tx, key)) is not None:
        return kept
    outlived = scoped(sa.delete(idempotency), idempotency, key.scope[0])
    tx.conn.execute(outlived.where(*_same(key)))
    found = work(tx, *args)
    row = {"body_sha256": key.body_sha256, "status": status, "answer": found, "created_ms": tx.now_ms}
    tx.conn.execute(sa.insert(idempotency).values(**key.columns, **row))
    return status, found


def _claim(tx: Tx, key: _Key) -> None:
    """Only one transaction works on a key, on whichever replica. Raises InFlight.

    SQLite has one writer, which is enough.
    """
    if tx.conn.dialect.name == "postgresql":
        number = sa.func.hashtextextended("\n".join(("idempotency", *key.scope)), 0)
        if not tx.conn.execute(sa.select(sa.func.pg_try_advisory_xact_lock(number))).scalar_one():
            raise _in_flight()


async def _answer(status: int, found: Any, encode: Encode) -> Response:
    if encode is msgspec.json.encode:
        return answer(status, found)
    return Response(await run_in_threadpool(encode, found), status, media_type="application/json")


def answer(status: int, body: Any) -> Response:
    """A body of plain values as JSON."""
    if status == 204:
        return Response(status_code=204)
    return Response(msgspec.json.encode(body), status, media_type="application/json")
