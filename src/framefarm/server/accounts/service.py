"""Accounts, users, tokens, and the audit: what was changed, by whom, through what."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Literal

import sqlalchemy as sa
from email_validator import EmailNotValidError, validate_email

from framefarm.core.errors import Conflict, InvalidInput, NotAllowed, NotAuthenticated, NotFound
from framefarm.server.accounts.audit import audit
from framefarm.server.accounts.tables import accounts, tokens, users
from framefarm.server.actor import Actor, Role
from framefarm.server.context import Keyring
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.tenancy import farmwide, scoped

RANK = {"read": 0, "member": 1, "admin": 2}
ROLES = ("admin", "member")


# ------------------------------------------------------------------------------ accounts


def any_account(tx: Tx) -> bool:
    return tx.conn.execute(sa.select(accounts.c.id).limit(1)).first() is not None


def create_account(tx: Tx, name: str, actor: str = "operator") -> str:
    """Returns the id. Raises InvalidInput, Conflict."""
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidInput.of("account", "must be 1 to 100 printable characters", name)
    if tx.conn.execute(sa.select(accounts.c.id).where(accounts.c.name == name)).first():
        raise Conflict(f"There is an account {name} already.")
    account_id = new_id("acc")
    tx.conn.execute(sa.insert(accounts).values(id=account_id, name=name, created_ms=tx.now_ms))
    audit(tx, actor, "account.create", account_id, account_id=account_id, after={"name": name})
    return account_id


def lock(tx: Tx, account_id: str) -> None:
    """Until the transaction ends nobody else counts what the account has, to add one or take one away."""
    tx.conn.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id).with_for_update())


def account_named(tx: Tx, name: str) -> Any:
    """An account's row by name or id. Raises NotFound."""
    query = sa.select(accounts).where((accounts.c.name == name) | (accounts.c.id == name))
    row = tx.conn.execute(query).mappings().one_or_none()
    if row is None:
        known = ", ".join(tx.conn.execute(sa.select(accounts.c.name)).scalars()) or "none"
        raise NotFound(f"There is no account {name!r}; there are: {known}.")
    return row


def first_start(tx: Tx, name: str, email: str, password_hash: str) -> tuple[str, str]:
    """The first account and its admin: (account id, user id)."""
    account_id = create_account(tx, name, "system")
    return account_id, create_user(tx, account_id, email, password_hash, "admin", "system")["id"]


def first_admin(tx: Tx) -> Any:
    """The admin that the first start made; None if it is not there."""
    query = farmwide(sa.select(users)).where(users.c.role == "admin").order_by(users.c.id).limit(1)
    return tx.conn.execute(query).mappings().one_or_none()


# --------------------------------------------------------------------------------- users


def clean_email(email: str) -> str:
    """Lower case, of the right form. Raises InvalidInput. Delivery is not checked: no network."""
    try:
        checked = validate_email(email, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise InvalidInput.of("email", f"is not an email address: {error}", email[:200]) from None
    return checked.normalized.lower()


def create_user(
    tx: Tx, account_id: str, email: str, password_hash: str, role: str, actor: str, request_id: str = ""
) -> Any:
    """Emails are unique in the farm. Raises InvalidInput, Conflict."""
    email = clean_email(email)
    if role not in ROLES:
        raise InvalidInput.of("role", "must be admin or member", role)
    if tx.conn.execute(farmwide(sa.select(users.c.id)).where(users.c.email == email)).first():
        raise Conflict(f"There is a user {email} already.")
    user_id = new_id("usr")
    tx.conn.execute(
        sa.insert(users).values(
            id=user_id, account_id=account_id, email=email, password_hash=password_hash, role=role,
            created_ms=tx.now_ms,
        )
    )  # fmt: skip
    audit(
        tx,
        actor,
        "user.create",
        user_id,
        account_id=account_id,
        request_id=request_id,
        after={"email": email, "role": role},
    )
    return user_in(tx, account_id, user_id)


def user_in(tx: Tx, account_id: str, user_id: str) -> Any:
    query = scoped(sa.select(users), users, account_id).where(users.c.id == user_id)
    row = tx.conn.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no user {user_id}.")
    return row


def user_by_email(tx: Tx, email: str) -> Any:
    """For logins and the operator; None if there is none."""
    return (
        tx.conn.execute(farmwide(sa.select(users)).where(users.c.email == email.strip().lower()))
        .mappings()
        .one_or_none()
    )


def list_users(tx: Tx, account_id: str, after: str, limit: int) -> list[Any]:
    query = scoped(sa.select(users), users, account_id).where(users.c.id > after)
    return list(tx.conn.execute(query.order_by(users.c.id).limit(limit)).mappings())


def change_user(
    tx: Tx,
    account_id: str,
    user_id: str,
    actor: str,
    *,
    role: str | None = None,
    disabled: bool | None = None,
    password_hash: str | None = None,
    request_id: str = "",
) -> Any:
    """Change of role or password, or disabling, ends the user's tokens and keys. The last admin stays."""
    row = user_in(tx, account_id, user_id)
    values: dict[str, Any] = {}
    if role is not None and role != row["role"]:
        if role not in ROLES:
            raise InvalidInput.of("role", "must be admin or member", role)
        values["role"] = role
    if disabled is not None and disabled != (row["disabled_ms"] is not None):
        values["disabled_ms"] = tx.now_ms if disabled else None
    if password_hash is not None:
        values["password_hash"] = password_hash
    if not values:
        return row
    if row["role"] == "admin" and (values.get("role") == "member" or values.get("disabled_ms")):
        lock(tx, account_id)
        others = scoped(sa.select(users.c.id), users, account_id).where(
            users.c.role == "admin", users.c.disabled_ms.is_(None), users.c.id != user_id
        )
        if tx.conn.execute(others.limit(1)).first() is None:
            raise Conflict("This is the account's last admin: make another one first.")
    mine = scoped(sa.update(users), users, account_id).where(users.c.id == user_id)
    tx.conn.execute(mine.values(values))
    ended = scoped(sa.update(tokens), tokens, account_id).where(
        tokens.c.user_id == user_id, tokens.c.revoked_ms.is_(None)
    )
    tx.conn.execute(ended.values(revoked_ms=tx.now_ms))
    shown = {k: v for k, v in values.items() if k != "password_hash"}
    if password_hash is not None:
        shown["password"] = "changed"
    before = {"role": row["role"], "disabled_ms": row["disabled_ms"]}
    audit(
        tx,
        actor,
        "user.change",
        user_id,
        account_id=account_id,
        request_id=request_id,
        before=before,
        after=shown,
    )
    return user_in(tx, account_id, user_id)


# -------------------------------------------------------------------------------- tokens


def new_token(
    tx: Tx,
    keys: Keyring,
    user: Any,
    kind: Literal["login", "key"],
    *,
    role: str,
    name: str = "",
    expires_ms: int | None,
) -> tuple[str, str]:
    """(id, the token itself, never seen again)."""
    secret = f"ff_{secrets.token_urlsafe(32)}"
    token_id = new_id("key" if kind == "key" else "tok")
    tx.conn.execute(
        sa.insert(tokens).values(
            id=token_id,
            account_id=user["account_id"],
            user_id=user["id"],
            kind=kind,
            hash=keys.digest("token", secret),
            name=name,
            hint=secret[-4:],
            role=role,
            created_ms=tx.now_ms,
            expires_ms=expires_ms,
        )
    )
    return token_id, secret


def who_is(tx: Tx, keys: Keyring, token: str, request_id: str) -> Actor:
    """The caller behind a token. Raises NotAuthenticated."""
    query = farmwide(
        sa.select(tokens, users.c.email, users.c.role.label("user_role"), users.c.disabled_ms).join(
            users, users.c.id == tokens.c.user_id
        )
    ).where(tokens.c.hash == keys.digest("token", token))
    row = tx.conn.execute(query).mappings().one_or_none()
    if (
        row is None
        or row["revoked_ms"] is not None
        or row["disabled_ms"] is not None
        or (row["expires_ms"] is not None and row["expires_ms"] <= tx.now_ms)
    ):
        raise NotAuthenticated("The token is not valid, or not any more: log in again.")
    role: Role = min((row["role"], row["user_role"]), key=lambda r: RANK[r])
    return Actor(row["account_id"], row["user_id"], role, row["email"], row["id"], row["kind"], request_id)


def valid_tokens(tx: Tx, token_ids: Iterable[str]) -> dict[str, Role]:
    """Those of these tokens that are still valid, with the role each has now."""
    query = farmwide(
        sa.select(tokens.c.id, tokens.c.role, tokens.c.expires_ms, users.c.role.label("user_role")).join(
            users, users.c.id == tokens.c.user_id
        )
    ).where(tokens.c.id.in_(list(token_ids)), tokens.c.revoked_ms.is_(None), users.c.disabled_ms.is_(None))
    return {
        row.id: min((row.role, row.user_role), key=lambda r: RANK[r])
        for row in tx.conn.execute(query)
        if row.expires_ms is None or row.expires_ms > tx.now_ms
    }


def is_live(tx: Tx, actor: Actor) -> bool:
    """Whether the caller's token is still good: for answers that go on for long."""
    query = scoped(sa.select(tokens.c.expires_ms), tokens, actor.account_id).where(
        tokens.c.id == actor.token_id, tokens.c.revoked_ms.is_(None)
    )
    row = tx.conn.execute(query).one_or_none()
    return row is not None and (row.expires_ms is None or row.expires_ms > tx.now_ms)


def revoke(tx: Tx, account_id: str, token_id: str, *, actor: Actor | None = None) -> None:
    """End a token. With an actor: an admin's of the account, or one's own. Raises NotFound."""
    query = scoped(sa.select(tokens), tokens, account_id).where(
        tokens.c.id == token_id, tokens.c.revoked_ms.is_(None)
    )
    row = tx.conn.execute(query).mappings().one_or_none()
    if row is None or (actor is not None and not actor.is_admin and row["user_id"] != actor.user_id):
        raise NotFound(f"There is no key {token_id}.")
    mine = scoped(sa.update(tokens), tokens, account_id).where(tokens.c.id == token_id)
    tx.conn.execute(mine.values(revoked_ms=tx.now_ms))
    if row["kind"] == "key":
        name, request_id = (actor.name, actor.request_id) if actor else ("operator", "")
        audit(
            tx,
            name,
            "key.revoke",
            token_id,
            account_id=account_id,
            request_id=request_id,
            before={"name": row["name"]},
        )


def list_keys(tx: Tx, actor: Actor, after: str, limit: int) -> list[Any]:
    """The account's keys for an admin, one's own for others."""
    query = scoped(sa.select(tokens), tokens, actor.account_id).where(
        tokens.c.kind == "key", tokens.c.revoked_ms.is_(None), tokens.c.id > after
    )
    if not actor.is_admin:
        query = query.where(tokens.c.user_id == actor.user_id)
    return list(tx.conn.execute(query.order_by(tokens.c.id).limit(limit)).mappings())


def create_key(
    tx: Tx, keys: Keyring, actor: Actor, name: str, role: str, expires_ms: int | None
) -> dict[str, Any]:
    """A key for pipelines, shown this once. A key cannot make keys; none is above its user."""
    if actor.token_kind == "key":
        raise NotAllowed("A key cannot make keys: log in with a password.")
    if RANK[role] > RANK[actor.role]:
        raise NotAllowed(f"A {actor.role} cannot make a key with role {role}.")
    if expires_ms is not None and expires_ms <= tx.now_ms:
        raise InvalidInput.of("expires_at", "must lie in the future")
    user = user_in(tx, actor.account_id, actor.user_id)
    key_id, secret = new_token(tx, keys, user, "key", role=role, name=name, expires_ms=expires_ms)
    after = {"name": name, "role": role}
    audit(tx, actor, "key.create", key_id, after=after)
    return {"id": key_id, "name": name, "role": role, "key": secret, "hint": secret[-4:],
            "created_ms": tx.now_ms, "expires_ms": expires_ms, "user_id": actor.user_id}  # fmt: skip
