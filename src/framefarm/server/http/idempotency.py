"""`Idempotency-Key`: a POST with a key is executed once; repeats within a day get the stored answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from framefarm.server.json_types import Json
from framefarm.server.rows import IdempotencyRow
from framefarm.server.tenancy import scoped

NAMES = ("account_id", "user_id", "method", "path", "key")

Encode = Callable[[Json], bytes]
"""Encodes the stored result of the work (free JSON: each route has its own) as a body; runs in a thread."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key with its caller and route (`scope`, in the order of `NAMES`), and its request's keyed digest."""

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
    """Keyed hash of query and body, as the body may hold a password. Computed once, as it may be large."""
    if (digest := getattr(request.state, "body_sha256", None)) is None:
        text = body.model_dump_json() if isinstance(body, BaseModel) else (body or "")
        digest = context_of(request).keys.digest("idempotency", f"{request.url.query}\n{text}")
        request.state.body_sha256 = digest
    return str(digest)


async def recall(
    request: Request, actor: Actor, body: BaseModel | str | None, encode: Encode = msgspec.json.encode
) -> Response | None:
    """The stored answer of this key, if any: checked early, before expensive preparation.

    Raises InvalidInput, and Conflict for a key that came with another body.
    """
    key = await _key_of(request, actor, body)
    stored = None if key is None else await context_of(request).db.read(_stored, key)
    return None if stored is None else await _respond(*stored, encode)


async def command(
    request: Request,
    actor: Actor,
    body: BaseModel | str | None,
    work: Callable[..., Json],
    *args: object,
    status: int = 200,
    encode: Encode = msgspec.json.encode,
) -> Response:
    """Answer a POST with the result of `work(tx, *args)`, run once for each Idempotency-Key.

    The result is stored, and encoded by `encode` for each answer. Raises InvalidInput, Conflict (the key came
    with another body) and InFlight (the first request is still in work).
    """
    context = context_of(request)
    key = await _key_of(request, actor, body)
    if key is None:
        return await _respond(status, await context.db.write(work, *args), encode)
    if key.scope in context.in_flight:
        raise _in_flight()
    context.in_flight.add(key.scope)
    try:
        return await _respond(*await context.db.write(_once, key, status, work, args), encode)
    finally:
        context.in_flight.discard(key.scope)


def _in_flight() -> InFlight:
    return InFlight("A request with this Idempotency-Key is being worked on.")


def _stored(tx: Tx, key: _Key) -> tuple[int, Json] | None:
    query = scoped(sa.select(idempotency), idempotency, key.scope[0])
    row = tx.row_or_none(IdempotencyRow, query.where(*_same(key)))
    if row is None or tx.now_ms - row.created_ms >= IDEMPOTENCY_MS:
        return None
    if row.body_sha256 != key.body_sha256:
        raise Conflict("This Idempotency-Key was used with another body.")
    return row.status, row.answer


def _same(key: _Key) -> list[sa.ColumnElement[bool]]:
    return [idempotency.c[name] == value for name, value in key.columns.items()]


def _once(
    tx: Tx, key: _Key, status: int, work: Callable[..., Json], args: tuple[object, ...]
) -> tuple[int, Json]:
    _claim(tx, key)
    if (stored := _stored(tx, key)) is not None:
        return stored
    expired = scoped(sa.delete(idempotency), idempotency, key.scope[0])
    tx.conn.execute(expired.where(*_same(key)))
    result = work(tx, *args)
    row = {"body_sha256": key.body_sha256, "status": status, "answer": result, "created_ms": tx.now_ms}
    tx.conn.execute(sa.insert(idempotency).values(**key.columns, **row))
    return status, result


def _claim(tx: Tx, key: _Key) -> None:
    """Lock a key until the transaction ends, against all processes on a PostgreSQL. Raises InFlight.

    SQLite has one writer and needs no lock.
    """
    if tx.conn.dialect.name == "postgresql":
        number = sa.func.hashtextextended("\n".join(("idempotency", *key.scope)), 0)
        if not tx.conn.execute(sa.select(sa.func.pg_try_advisory_xact_lock(number))).scalar_one():
            raise _in_flight()


async def _respond(status: int, result: Json, encode: Encode) -> Response:
    if encode is not msgspec.json.encode:
        body = await run_in_threadpool(encode, result)
        return Response(body, status, media_type="application/json")
    if status == 204:
        return Response(status_code=204)
    return Response(msgspec.json.encode(result), status, media_type="application/json")
