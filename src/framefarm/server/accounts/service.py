"""Accounts, users and tokens; each change is audited."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from email_validator import EmailNotValidError, validate_email

from framefarm.core.errors import Conflict, InvalidInput, NotAllowed, NotAuthenticated, NotFound
from framefarm.server.accounts.audit import audit
from framefarm.server.accounts.tables import accounts, tokens, users
from framefarm.server.actor import Actor, Role
from framefarm.server.context import Keyring
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.rows import AccountRow, TokenRow, UserRow
from framefarm.server.tenancy import farmwide, scoped

RANK: dict[Role, int] = {"read": 0, "member": 1, "admin": 2}
USER_ROLES = ("admin", "member")


@dataclass(frozen=True, slots=True)
class NewKey:
    """An API key at its creation: its row, and the key itself, which is stored only as a keyed hash."""

    row: TokenRow
    secret: str


@dataclass(frozen=True, slots=True)
class _TokenWithUser(TokenRow):
    email: str
    user_role: Role
    disabled_ms: int | None


# ------------------------------------------------------------------------------ accounts


def any_account(tx: Tx) -> bool:
    """Whether the farm has an account; it has none before its first start."""
    return tx.conn.execute(sa.select(accounts.c.id).limit(1)).first() is not None


def create_account(tx: Tx, name: str, actor: str = "operator") -> str:
    """Create an account without users; returns its id. Raises InvalidInput, Conflict."""
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
    """Lock the account's row until the transaction ends, so that counts of what it has stay true."""
    tx.conn.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id).with_for_update())


def find_account(tx: Tx, name_or_id: str) -> AccountRow:
    """Account by name or id. Raises NotFound."""
    query = sa.select(accounts).where((accounts.c.name == name_or_id) | (accounts.c.id == name_or_id))
    account = tx.row_or_none(AccountRow, query)
    if account is None:
        known = ", ".join(tx.conn.execute(sa.select(accounts.c.name)).scalars()) or "none"
        raise NotFound(f"There is no account {name_or_id!r}; there are: {known}.")
    return account


def first_start(tx: Tx, name: str, email: str, password_hash: str) -> tuple[str, str]:
    """Create the first account and its admin; returns (account id, user id). Raises InvalidInput."""
    account_id = create_account(tx, name, "system")
    return account_id, create_user(tx, account_id, email, password_hash, "admin", "system").id


def first_admin(tx: Tx) -> UserRow | None:
    """The farm's oldest admin, whom the first start created; None if the farm has no admin."""
    query = farmwide(sa.select(users)).where(users.c.role == "admin").order_by(users.c.id).limit(1)
    return tx.row_or_none(UserRow, query)


# --------------------------------------------------------------------------------- users


def clean_email(email: str) -> str:
    """An email address in lower case. Raises InvalidInput. Whether it takes mail is not checked."""
    try:
        checked = validate_email(email, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise InvalidInput.of("email", f"is not an email address: {error}", email[:200]) from None
    return checked.normalized.lower()


def create_user(
    tx: Tx, account_id: str, email: str, password_hash: str, role: str, actor: Actor | str
) -> UserRow:
    """Add a user to an account; emails are unique in the farm. Raises InvalidInput, Conflict."""
    email = clean_email(email)
    if role not in USER_ROLES:
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
    audit(tx, actor, "user.create", user_id, account_id=account_id, after={"email": email, "role": role})
    return find_user(tx, account_id, user_id)


def find_user(tx: Tx, account_id: str, user_id: str) -> UserRow:
    """User of one account. Raises NotFound."""
    query = scoped(sa.select(users), users, account_id).where(users.c.id == user_id)
    user = tx.row_or_none(UserRow, query)
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return user


def user_by_email(tx: Tx, email: str) -> UserRow | None:
    """User of any account, for logins and the operator."""
    query = farmwide(sa.select(users)).where(users.c.email == email.strip().lower())
    return tx.row_or_none(UserRow, query)


def list_users(tx: Tx, account_id: str, after: str, limit: int) -> list[UserRow]:
    """The account's users in the order of their ids, from behind the id `after`."""
    query = scoped(sa.select(users), users, account_id).where(users.c.id > after)
    return tx.rows(UserRow, query.order_by(users.c.id).limit(limit))


def change_user(
    tx: Tx,
    account_id: str,
    user_id: str,
    actor: Actor | str,
    *,
    role: str | None = None,
    disabled: bool | None = None,
    password_hash: str | None = None,
) -> UserRow:
    """Change a user's role, password or access; each change ends the user's logins and keys.

    Raises NotFound, InvalidInput, and Conflict for the account's last admin.
    """
    user = find_user(tx, account_id, user_id)
    values: dict[str, object] = {}
    if role is not None and role != user.role:
        if role not in USER_ROLES:
            raise InvalidInput.of("role", "must be admin or member", role)
        values["role"] = role
    if disabled is not None and disabled != (user.disabled_ms is not None):
        values["disabled_ms"] = tx.now_ms if disabled else None
    if password_hash is not None:
        values["password_hash"] = password_hash
    if not values:
        return user
    if user.role == "admin" and (values.get("role") == "member" or values.get("disabled_ms")):
        lock(tx, account_id)
        other_admins = scoped(sa.select(users.c.id), users, account_id).where(
            users.c.role == "admin", users.c.disabled_ms.is_(None), users.c.id != user_id
        )
        if tx.conn.execute(other_admins.limit(1)).first() is None:
            raise Conflict("This is the account's last admin: make another one first.")
    update = scoped(sa.update(users), users, account_id).where(users.c.id == user_id)
    tx.conn.execute(update.values(values))
    live_tokens = scoped(sa.update(tokens), tokens, account_id).where(
        tokens.c.user_id == user_id, tokens.c.revoked_ms.is_(None)
    )
    tx.conn.execute(live_tokens.values(revoked_ms=tx.now_ms))
    before = {"role": user.role, "disabled_ms": user.disabled_ms}
    after = {k: v for k, v in values.items() if k != "password_hash"}
    if password_hash is not None:
        after["password"] = "changed"
    audit(tx, actor, "user.change", user_id, account_id=account_id, before=before, after=after)
    return find_user(tx, account_id, user_id)


# -------------------------------------------------------------------------------- tokens


def new_token(
    tx: Tx,
    keys: Keyring,
    user: UserRow,
    kind: Literal["login", "key"],
    *,
    role: Role,
    name: str = "",
    expires_ms: int | None,
) -> tuple[str, str]:
    """Create a token of a user; returns (id, token). Only a keyed hash of the token is stored."""
    secret = f"ff_{secrets.token_urlsafe(32)}"
    token_id = new_id("key" if kind == "key" else "tok")
    tx.conn.execute(
        sa.insert(tokens).values(
            id=token_id,
            account_id=user.account_id,
            user_id=user.id,
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


def actor_of_token(tx: Tx, keys: Keyring, token: str, request_id: str) -> Actor:
    """The caller behind a token. Raises NotAuthenticated for an unknown, expired or revoked token, and for a
    disabled user."""
    query = farmwide(
        sa.select(tokens, users.c.email, users.c.role.label("user_role"), users.c.disabled_ms).join(
            users, users.c.id == tokens.c.user_id
        )
    ).where(tokens.c.hash == keys.digest("token", token))
    row = tx.row_or_none(_TokenWithUser, query)
    if (
        row is None
        or row.revoked_ms is not None
        or row.disabled_ms is not None
        or (row.expires_ms is not None and row.expires_ms <= tx.now_ms)
    ):
        raise NotAuthenticated("The token is not valid, or not any more: log in again.")
    role = _lower(row.role, row.user_role)
    return Actor(row.account_id, row.user_id, role, row.email, row.id, row.kind, request_id)


def _lower(role: Role, user_role: Role) -> Role:
    """The role of a token: its own, but never above its user's present one."""
    return min(role, user_role, key=lambda r: RANK[r])


def valid_tokens(tx: Tx, token_ids: Iterable[str]) -> dict[str, Role]:
    """Present roles of those of these tokens that are still valid, by the token's id."""
    query = farmwide(
        sa.select(tokens.c.id, tokens.c.role, tokens.c.expires_ms, users.c.role.label("user_role")).join(
            users, users.c.id == tokens.c.user_id
        )
    ).where(tokens.c.id.in_(list(token_ids)), tokens.c.revoked_ms.is_(None), users.c.disabled_ms.is_(None))
    return {
        row.id: _lower(row.role, row.user_role)
        for row in tx.conn.execute(query)
        if row.expires_ms is None or row.expires_ms > tx.now_ms
    }


def is_live(tx: Tx, actor: Actor) -> bool:
    """Whether the caller's token is still valid: asked again during long answers."""
    query = scoped(sa.select(tokens.c.expires_ms), tokens, actor.account_id).where(
        tokens.c.id == actor.token_id, tokens.c.revoked_ms.is_(None)
    )
    row = tx.conn.execute(query).one_or_none()
    return row is not None and (row.expires_ms is None or row.expires_ms > tx.now_ms)


def revoke(tx: Tx, account_id: str, token_id: str, *, actor: Actor | None = None) -> None:
    """End a token. An actor who is no admin may end only tokens of their own. Raises NotFound."""
    query = scoped(sa.select(tokens), tokens, account_id).where(
        tokens.c.id == token_id, tokens.c.revoked_ms.is_(None)
    )
    token = tx.row_or_none(TokenRow, query)
    if token is None or (actor is not None and not actor.is_admin and token.user_id != actor.user_id):
        raise NotFound(f"There is no key {token_id}.")
    update = scoped(sa.update(tokens), tokens, account_id).where(tokens.c.id == token_id)
    tx.conn.execute(update.values(revoked_ms=tx.now_ms))
    if token.kind == "key":
        before = {"name": token.name}
        audit(tx, actor or "operator", "key.revoke", token_id, account_id=account_id, before=before)


def list_keys(tx: Tx, actor: Actor, after: str, limit: int) -> list[TokenRow]:
    """API keys in the order of their ids, from behind `after`: an admin gets those of the account."""
    query = scoped(sa.select(tokens), tokens, actor.account_id).where(
        tokens.c.kind == "key", tokens.c.revoked_ms.is_(None), tokens.c.id > after
    )
    if not actor.is_admin:
        query = query.where(tokens.c.user_id == actor.user_id)
    return tx.rows(TokenRow, query.order_by(tokens.c.id).limit(limit))


def create_key(tx: Tx, keys: Keyring, actor: Actor, name: str, role: Role, expires_ms: int | None) -> NewKey:
    """Create an API key with at most the role of its user.

    Raises NotAllowed (for a caller with a key, or too high a role), InvalidInput (an expiry in the past).
    """
    if actor.token_kind == "key":
        raise NotAllowed("A key cannot make keys: log in with a password.")
    if RANK[role] > RANK[actor.role]:
        raise NotAllowed(f"A {actor.role} cannot make a key with role {role}.")
    if expires_ms is not None and expires_ms <= tx.now_ms:
        raise InvalidInput.of("expires_at", "must lie in the future")
    user = find_user(tx, actor.account_id, actor.user_id)
    key_id, secret = new_token(tx, keys, user, "key", role=role, name=name, expires_ms=expires_ms)
    audit(tx, actor, "key.create", key_id, after={"name": name, "role": role})
    query = scoped(sa.select(tokens), tokens, actor.account_id).where(tokens.c.id == key_id)
    return NewKey(tx.row(TokenRow, query), secret)
