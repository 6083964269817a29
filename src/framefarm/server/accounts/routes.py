"""`/api/auth/*` and `/api/users`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from framefarm.core.errors import NotAllowed, NotAuthenticated
from framefarm.protocol.api_accounts import (
    KeyPage,
    KeyRequest,
    Login,
    Me,
    NewKey,
    NewUser,
    Session,
    UserChange,
    UserInfo,
    UserPage,
)
from framefarm.server.accounts import passwords, service
from framefarm.server.accounts.callers import COOKIE, Admin, Caller, Writer
from framefarm.server.accounts.throttle import Throttle
from framefarm.server.actor import Actor
from framefarm.server.context import Keyring
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.http.idempotency import command
from framefarm.server.http.openapi import idempotent, may_refuse, throttled
from framefarm.server.http.paging import Paging
from framefarm.server.timestamps import iso

router = APIRouter(prefix="/api", tags=["accounts"])
Id = Annotated[str, Path(max_length=100)]
throttle = Throttle()


def _user(row: Any) -> UserInfo:
    return UserInfo(
        id=row["id"],
        email=row["email"],
        role=row["role"],
        disabled=row["disabled_ms"] is not None,
        created_at=iso(row["created_ms"]) or "",
    )


def _account(tx: Tx, account_id: str) -> dict[str, Any]:
    row = service.account_named(tx, account_id)
    return {"id": row["id"], "name": row["name"], "currency": row["currency"]}


@router.post("/auth/login", response_model=Session, summary="Log in: the answer holds an access_token")
@throttled
async def login(request: Request, response: Response, said: Login) -> Any:
    context = context_of(request)
    email = said.email.strip().lower()
    address = request.client.host if request.client else ""
    throttle.check(email, address)
    user = await context.db.read(service.user_by_email, email)
    live = user is not None and user["disabled_ms"] is None
    stored = user["password_hash"] if user is not None and live else None
    if not await run_in_threadpool(passwords.verify, said.password, stored):
        throttle.failed(email, address)
        raise NotAuthenticated("Email or password is wrong.")

    def work(tx: Tx, keys: Keyring) -> dict[str, Any]:
        row = service.user_by_email(tx, email)
        if row is None or row["disabled_ms"] is not None or row["password_hash"] != stored:
            raise NotAuthenticated("Email or password is wrong.")
        until = tx.now_ms + round(context.settings.login_hours * 3_600_000)
        _, token = service.new_token(tx, keys, row, "login", role=row["role"], expires_ms=until)
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_at": iso(until),
            "user": _user(row).model_dump(),
            "account": _account(tx, row["account_id"]),
        }

    answer = await context.db.write(work, context.keys)
    if said.cookie:
        secure = context.base_url().startswith("https:") or context.settings.behind_proxy
        response.set_cookie(COOKIE, answer["access_token"], httponly=True, samesite="strict", secure=secure)
    response.headers["Cache-Control"] = "no-store"
    return answer


@router.post("/auth/logout", status_code=204, summary="End this token")
async def logout(request: Request, actor: Caller) -> Response:
    context = context_of(request)

    def work(tx: Tx) -> None:
        service.revoke(tx, actor.account_id, actor.token_id)

    await context.db.write(work)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE)
    return response


@router.get("/auth/me", response_model=Me, summary="Who this token belongs to")
async def me(request: Request, actor: Caller) -> Any:
    def work(tx: Tx) -> dict[str, Any]:
        row = service.user_in(tx, actor.account_id, actor.user_id)
        return {
            "user": _user(row).model_dump(),
            "account": _account(tx, actor.account_id),
            "token": actor.token_kind,
            "role": actor.role,
        }

    return await context_of(request).db.read(work)


def _key(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "role": row["role"],
        "hint": row["hint"],
        "user": row["user_id"],
        "created_at": iso(row["created_ms"]),
        "expires_at": iso(row["expires_ms"]),
    }


@router.post("/auth/keys", status_code=201, response_model=NewKey, summary="Make an API key, shown once")
async def make_key(request: Request, actor: Caller, said: KeyRequest) -> Any:
    context = context_of(request)
    until = None
    if said.expires_at is not None:
        until = round(said.expires_at.timestamp() * 1000)
    made = await context.db.write(service.create_key, context.keys, actor, said.name, said.role, until)
    return _key(made) | {"key": made["key"]}


@router.get("/auth/keys", response_model=KeyPage, summary="API keys; an admin sees the account's")
async def list_keys(request: Request, actor: Caller, paging: Paging) -> Any:
    after = paging.after("keys", [], actor)
    rows = await context_of(request).db.read(
        service.list_keys, actor, after[0] if after else "", paging.limit + 1
    )
    return paging.page("keys", [], actor, [_key(r) for r in rows], lambda row: [row["id"]])


@router.delete("/auth/keys/{key_id}", status_code=204, summary="Revoke an API key")
async def revoke_key(request: Request, actor: Writer, key_id: Id) -> Response:
    def work(tx: Tx) -> None:
        service.revoke(tx, actor.account_id, key_id, actor=actor)

    await context_of(request).db.write(work)
    return Response(status_code=204)


@router.get("/users", response_model=UserPage, summary="The account's users")
@may_refuse
async def list_users(request: Request, actor: Admin, paging: Paging) -> Any:
    after = paging.after("users", [], actor)
    rows = await context_of(request).db.read(
        service.list_users, actor.account_id, after[0] if after else "", paging.limit + 1
    )
    return paging.page("users", [], actor, [_user(r) for r in rows], lambda row: [row.id])


def _no_key(actor: Actor) -> None:
    """A key that made itself a login would outlive its own end."""
    if actor.token_kind == "key":
        raise NotAllowed("A key cannot make users, nor change passwords and roles: log in with a password.")


@router.post("/users", status_code=201, response_model=UserInfo, summary="Add a user to the account")
@throttled
@idempotent
async def add_user(request: Request, actor: Admin, said: NewUser) -> Response:
    _no_key(actor)
    passwords.check_new(said.password)
    hashed = await run_in_threadpool(passwords.hash_password, said.password)

    def work(tx: Tx) -> dict[str, Any]:
        row = service.create_user(
            tx, actor.account_id, said.email, hashed, said.role, actor.name, actor.request_id
        )
        return _user(row).model_dump()

    return await command(request, actor, said, work, status=201)


@router.patch("/users/{user_id}", response_model=UserInfo, summary="Change a user's role, password, access")
@throttled
async def change_user(request: Request, actor: Admin, user_id: Id, said: UserChange) -> Any:
    if said.password is not None or said.role is not None:
        _no_key(actor)
    hashed = None
    if said.password is not None:
        passwords.check_new(said.password)
        hashed = await run_in_threadpool(passwords.hash_password, said.password)

    def work(tx: Tx) -> UserInfo:
        row = service.change_user(
            tx,
            actor.account_id,
            user_id,
            actor.name,
            role=said.role,
            disabled=said.disabled,
            password_hash=hashed,
            request_id=actor.request_id,
        )
        return _user(row)

    return await context_of(request).db.write(work)
