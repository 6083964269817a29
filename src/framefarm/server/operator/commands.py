"""All operator's commands by name. Arguments come from the command line, already parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from framefarm.core.errors import InvalidInput, NotFound
from framefarm.core.money import parse_amount
from framefarm.server.accounts import passwords
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.audit import audit
from framefarm.server.accounts.tables import accounts as accounts_table
from framefarm.server.accounts.tables import users
from framefarm.server.billing import service as billing
from framefarm.server.catalog import destinations
from framefarm.server.catalog import service as catalog
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.nodes import service as nodes
from framefarm.server.projects import service as projects
from framefarm.server.retention import service as collection
from framefarm.server.tenancy import farmwide

Arguments = dict[str, Any]
Command = Callable[[Tx, AppContext, Arguments], dict[str, Any]]
COMMANDS: dict[str, Command] = {}
LONG: dict[str, Callable[[AppContext, Arguments], dict[str, Any]]] = {"collect": collection.by_hand}
"""Those of many units of work, each committed by itself."""


def command(name: str) -> Callable[[Command], Command]:
    """Make a function an operator's command; it runs as one unit of work."""

    def remember(function: Command) -> Command:
        COMMANDS[name] = function
        return function

    return remember


def prepare(name: str, said: Arguments) -> Arguments:
    """What a command needs that takes long: not done in its transaction, where everybody waits for it."""
    if name not in {"user.add", "user.set"} or said.get("password") is None:
        return said
    passwords.check_new(said["password"])
    rest = {key: value for key, value in said.items() if key != "password"}
    return rest | {"password_hash": passwords.hash_password(said["password"])}


def _account(row: Any) -> dict[str, Any]:
    return {k: row[k] for k in ("id", "name", "credit_limit_micros", "allow_scripts", "quota_bytes")}


def _user(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "email": row["email"],
        "role": row["role"],
        "account": row["account_id"],
        "disabled": row["disabled_ms"] is not None,
    }


@command("account.list")
def account_list(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    rows = tx.conn.execute(sa.select(accounts_table).order_by(accounts_table.c.id)).mappings()
    return {"accounts": [_account(r) | {"balance_micros": billing.balance(tx, r["id"])} for r in rows.all()]}


@command("account.create")
def account_create(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    account_id = accounts.create_account(tx, said["account"])
    projects.create(tx, account_id, "", "default", "operator")
    return _account(accounts.account_named(tx, account_id))


@command("account.set")
def account_set(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    row = accounts.account_named(tx, said["account"])
    values: dict[str, Any] = {}
    if said.get("credit_limit") is not None:
        limit = said["credit_limit"]
        values["credit_limit_micros"] = None if limit == "none" else _limit(limit)
    if said.get("allow_scripts") is not None:
        values["allow_scripts"] = said["allow_scripts"]
    if said.get("quota_bytes") is not None:
        values["quota_bytes"] = said["quota_bytes"] or None
    if values:
        before = {k: row[k] for k in values}
        key = accounts_table.c.id == row["id"]
        tx.conn.execute(sa.update(accounts_table).where(key).values(values))
        audit(tx, "operator", "account.set", row["id"], account_id=row["id"], before=before, after=values)
    return _account(accounts.account_named(tx, row["id"]))


@command("user.add")
def user_add(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    try:
        account_id = accounts.account_named(tx, said["account"])["id"]
    except NotFound:
        if not said.get("create_account"):
            raise
        account_id = account_create(tx, context, said)["id"]
    hashed = said["password_hash"]
    return _user(accounts.create_user(tx, account_id, said["email"], hashed, said["role"], "operator"))


@command("user.list")
def user_list(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    query = farmwide(sa.select(users)).order_by(users.c.id)
    if said.get("account"):
        query = query.where(users.c.account_id == accounts.account_named(tx, said["account"])["id"])
    return {"users": [_user(r) for r in tx.conn.execute(query).mappings()]}


@command("user.set")
def user_set(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    row = accounts.user_by_email(tx, said["email"])
    if row is None:
        raise NotFound(f"There is no user {said['email']}.")
    return _user(
        accounts.change_user(
            tx,
            row["account_id"],
            row["id"],
            "operator",
            role=said.get("role"),
            disabled=said.get("disabled"),
            password_hash=said.get("password_hash"),
        )
    )


def _micros(text: str, field: str) -> int:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise InvalidInput.of(field, str(error), text[:40]) from None


def _limit(text: str) -> int:
    micros = _micros(text, "credit-limit")
    if micros < 0:
        raise InvalidInput.of("credit-limit", "must be 0 or more, or none", text[:40])
    return micros


@command("credit.add")
def credit_add(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    account_id = accounts.account_named(tx, said["account"])["id"]
    kind, amount = said.get("kind") or "credit", _micros(said["amount"], "amount")
    if kind == "charge":
        raise InvalidInput.of(
            "kind", "charges are the farm's own: payment, credit, refund or adjustment", kind
        )
    if amount <= 0 and kind != "adjustment":
        raise InvalidInput.of("amount", "must be more than 0; an adjustment may be negative", said["amount"])
    signed = -amount if kind == "refund" else amount
    entry = billing.post(tx, account_id, kind, signed, said.get("note") or kind, "operator")
    after = {"kind": kind, "amount_micros": signed}
    audit(tx, "operator", "ledger.post", entry, account_id=account_id, after=after)
    return {
        "id": entry,
        "kind": kind,
        "amount_micros": signed,
        "balance_micros": billing.balance(tx, account_id),
    }


@command("price.set")
def price_set(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    on_demand, spot = said.get("on_demand"), said.get("preemptible")
    row = catalog.set_price(
        tx,
        said["instance"],
        None if on_demand is None else _micros(on_demand, "on-demand"),
        None if spot is None else _micros(spot, "preemptible"),
    )
    return asdict(row)


@command("package.register")
def package_register(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    package = catalog.register_package(
        tx,
        id=said["id"],
        kind=said["kind"],
        path=said["path"],
        release=said["release"],
        default=bool(said.get("default")),
    )
    return asdict(package)


@command("package.list")
def package_list(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    return {"packages": [asdict(package) for package in catalog.list_packages(tx)]}


@command("output.add")
def output_add(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    account_id = accounts.account_named(tx, said["account"])["id"]
    url = destinations.grant(tx, account_id, said["url"])
    audit(tx, "operator", "output.add", url, account_id=account_id)
    return {"places": destinations.list_destinations(tx, account_id)}


@command("output.remove")
def output_remove(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    account_id = accounts.account_named(tx, said["account"])["id"]
    destinations.revoke(tx, account_id, said["url"])
    audit(tx, "operator", "output.remove", said["url"], account_id=account_id)
    return {"places": destinations.list_destinations(tx, account_id)}


@command("output.list")
def output_list(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    account_id = accounts.account_named(tx, said["account"])["id"]
    return {"places": destinations.list_destinations(tx, account_id)}


@command("node.list")
def node_list(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    return {"nodes": nodes.listing(tx)}


@command("node.set_aside")
def node_set_aside(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    reason = said["reason"].strip()
    if not reason or len(reason) > 500:
        raise InvalidInput.of("reason", "say why, in 500 characters at most", said["reason"][:40])
    tx.wake("dispatch")
    return nodes.set_aside(tx, said["node"], reason)


@command("node.return")
def node_return(tx: Tx, context: AppContext, said: Arguments) -> dict[str, Any]:
    tx.wake("dispatch")
    return nodes.return_to_use(tx, said["node"])
