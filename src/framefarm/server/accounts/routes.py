"""Routes of `/api/auth/*` and `/api/users`."""

from __future__ import annotations

from typing import Annotated

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
from framefarm.server.http.openapi import MAY_REFUSE, TAKES_KEY, THROTTLED
from framefarm.server.http.paging import Paging
from framefarm.server.json_types import Answer
from framefarm.server.rows import TokenRow, UserRow
from framefarm.server.timestamps import iso

router = APIRouter(prefix="/api", tags=["accounts"])
Id = Annotated[str, Path(max_length=100)]
throttle = Throttle()


def _user(user: UserRow) -> UserInfo:
    return UserInfo(
        id=user.id,
        email=user.email,
        role=user.role,
        disabled=user.disabled_ms is not None,
        created_at=iso(user.created_ms) or "",
    )


def _account(tx: Tx, account_id: str) -> Answer:
    account = service.find_account(tx, account_id)
    return {"id": account.id, "name": account.name, "currency": account.currency}


@router.post(
    "/auth/login",
    response_model=Session,
    summary="Log in: the answer holds an access_token",
    responses=THROTTLED,
)
async def login(request: Request, response: Response, body: Login) -> Answer:
    context = context_of(request)
    email = body.email.strip().lower()
    address = request.client.host if request.client else ""
    throttle.check(email, address)
    user = await context.db.read(service.user_by_email, email)
    password_hash = user.password_hash if user is not None and user.disabled_ms is None else None
    if not await run_in_threadpool(passwords.verify, body.password, password_hash):
        throttle.failed(email, address)
        raise NotAuthenticated("Email or password is wrong.")

    def work(tx: Tx, keys: Keyring) -> Answer:
        user = service.user_by_email(tx, email)
        if user is None or user.disabled_ms is not None or user.password_hash != password_hash:
            raise NotAuthenticated("Email or password is wrong.")
        until = tx.now_ms + round(context.settings.login_hours * 3_600_000)
        _, token = service.new_token(tx, keys, user, "login", role=user.role, expires_ms=until)
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_at": iso(until),
            "user": _user(user).model_dump(),
            "account": _account(tx, user.account_id),
        }

    answer = await context.db.write(work, context.keys)
    if body.cookie:
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


@router.get("/auth/me", response_model=Me, summary="The user and account of this token")
async def me(request: Request, actor: Caller) -> Answer:
    def work(tx: Tx) -> Answer:
        user = service.find_user(tx, actor.account_id, actor.user_id)
        return {
            "user": _user(user).model_dump(),
            "account": _account(tx, actor.account_id),
            "token": actor.token_kind,
            "role": actor.role,
        }

    return await context_of(request).db.read(work)


def _key(token: TokenRow) -> Answer:
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "hint": token.hint,
        "user": token.user_id,
        "created_at": iso(token.created_ms),
        "expires_at": iso(token.expires_ms),
    }


@router.post("/auth/keys", status_code=201, response_model=NewKey, summary="Make an API key, shown once")
async def make_key(request: Request, actor: Caller, body: KeyRequest) -> Answer:
    context = context_of(request)
    expires_ms = None
    if body.expires_at is not None:
        expires_ms = round(body.expires_at.timestamp() * 1000)
    key = await context.db.write(service.create_key, context.keys, actor, body.name, body.role, expires_ms)
    return _key(key.row) | {"key": key.secret}


@router.get("/auth/keys", response_model=KeyPage, summary="API keys; an admin sees the account's")
async def list_keys(request: Request, actor: Caller, paging: Paging) -> Answer:
    after = paging.after("keys", [], actor)
    rows = await context_of(request).db.read(
        service.list_keys, actor, after[0] if after else "", paging.limit + 1
    )
    return paging.page("keys", [], actor, [_key(token) for token in rows], lambda key: [key["id"]])


@router.delete("/auth/keys/{key_id}", status_code=204, summary="Revoke an API key")
async def revoke_key(request: Request, actor: Writer, key_id: Id) -> Response:
    def work(tx: Tx) -> None:
        service.revoke(tx, actor.account_id, key_id, actor=actor)

    await context_of(request).db.write(work)
    return Response(status_code=204)


@router.get("/users", response_model=UserPage, summary="The account's users", responses=MAY_REFUSE)
async def list_users(request: Request, actor: Admin, paging: Paging) -> Answer:
    after = paging.after("users", [], actor)
    rows = await context_of(request).db.read(
        service.list_users, actor.account_id, after[0] if after else "", paging.limit + 1
    )
    return paging.page("users", [], actor, [_user(user) for user in rows], lambda user: [user.id])


def _refuse_key(actor: Actor) -> None:
    """Raises NotAllowed for an API key: one that created a login would outlive its own revocation."""
    if actor.token_kind == "key":
        raise NotAllowed("A key cannot make users, nor change passwords and roles: log in with a password.")


@router.post(
    "/users",
    status_code=201,
    response_model=UserInfo,
    summary="Add a user to the account",
    responses=THROTTLED,
    openapi_extra=TAKES_KEY,
)
async def add_user(request: Request, actor: Admin, body: NewUser) -> Response:
    _refuse_key(actor)
    passwords.check_new(body.password)
    password_hash = await run_in_threadpool(passwords.hash_password, body.password)

    def work(tx: Tx) -> Answer:
        user = service.create_user(tx, actor.account_id, body.email, password_hash, body.role, actor)
        return _user(user).model_dump()

    return await command(request, actor, body, work, status=201)


@router.patch(
    "/users/{user_id}",
    response_model=UserInfo,
    summary="Change a user's role, password, access",
    responses=THROTTLED,
)
async def change_user(request: Request, actor: Admin, user_id: Id, body: UserChange) -> UserInfo:
    if body.password is not None or body.role is not None:
        _refuse_key(actor)
    password_hash = None
    if body.password is not None:
        passwords.check_new(body.password)
        password_hash = await run_in_threadpool(passwords.hash_password, body.password)

    def work(tx: Tx) -> UserInfo:
        user = service.change_user(
            tx,
            actor.account_id,
            user_id,
            actor,
            role=body.role,
            disabled=body.disabled,
            password_hash=password_hash,
        )
        return _user(user)

    return await context_of(request).db.write(work)
