"""The operator's commands by name, each a unit of work. The command line parsed their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

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
from framefarm.server.json_types import Json
from framefarm.server.nodes import service as nodes
from framefarm.server.projects import service as projects
from framefarm.server.retention import service as retention
from framefarm.server.rows import AccountRow, UserRow

FARM_WIDE = "The operator acts on all accounts."

Arguments = dict[str, Json]
"""Free JSON: a command's options by name."""
Reply = dict[str, Json]
"""Free JSON: printed by the command line."""
Command = Callable[[Tx, AppContext, Arguments], Reply]
COMMANDS: dict[str, Command] = {}
LONG: dict[str, Callable[[AppContext, Arguments], Reply]] = {"collect": retention.run_for_operator}
"""Commands of many units of work, each committed by itself."""


def command(name: str) -> Callable[[Command], Command]:
    """Register a function as the operator's command of that name; it runs as one unit of work."""

    def register(function: Command) -> Command:
        COMMANDS[name] = function
        return function

    return register


def prepare(name: str, arguments: Arguments) -> Arguments:
    """Hash a password among the arguments: slow, so before the transaction, for which other writers wait.

    Raises InvalidInput, TooMany.
    """
    if name not in {"user.add", "user.set"} or arguments.get("password") is None:
        return arguments
    passwords.check_new(arguments["password"])
    others = {key: value for key, value in arguments.items() if key != "password"}
    return others | {"password_hash": passwords.hash_password(arguments["password"])}


def _account(account: AccountRow) -> Reply:
    shown = ("id", "name", "credit_limit_micros", "allow_scripts", "quota_bytes")
    return {name: getattr(account, name) for name in shown}


def _user(user: UserRow) -> Reply:
    return {
        "id": user.id,
        "email": user.email,
        "role": user.role,
        "account": user.account_id,
        "disabled": user.disabled_ms is not None,
    }


@command("account.list")
def account_list(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    rows = tx.rows(AccountRow, sa.select(accounts_table).order_by(accounts_table.c.id))
    return {"accounts": [_account(row) | {"balance_micros": billing.balance(tx, row.id)} for row in rows]}


@command("account.create")
def account_create(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    account_id = accounts.create_account(tx, arguments["account"])
    projects.create(tx, account_id, "", "default", "operator")
    return _account(accounts.find_account(tx, account_id))


@command("account.set")
def account_set(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    account = accounts.find_account(tx, arguments["account"])
    values: dict[str, Json] = {}
    if arguments.get("credit_limit") is not None:
        limit = arguments["credit_limit"]
        values["credit_limit_micros"] = None if limit == "none" else _limit(limit)
    if arguments.get("allow_scripts") is not None:
        values["allow_scripts"] = arguments["allow_scripts"]
    if arguments.get("quota_bytes") is not None:
        values["quota_bytes"] = arguments["quota_bytes"] or None
    if values:
        before = {name: getattr(account, name) for name in values}
        update = sa.update(accounts_table).where(accounts_table.c.id == account.id)
        tx.conn.execute(update.values(values))
        audit(tx, "operator", "account.set", account.id, account_id=account.id, before=before, after=values)
    return _account(accounts.find_account(tx, account.id))


@command("user.add")
def user_add(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    try:
        account_id = accounts.find_account(tx, arguments["account"]).id
    except NotFound:
        if not arguments.get("create_account"):
            raise
        account_id = account_create(tx, context, arguments)["id"]
    email, password_hash, role = arguments["email"], arguments["password_hash"], arguments["role"]
    return _user(accounts.create_user(tx, account_id, email, password_hash, role, "operator"))


@command("user.list")
def user_list(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    query = sa.select(users).order_by(users.c.id)
    if arguments.get("account"):
        query = query.where(users.c.account_id == accounts.find_account(tx, arguments["account"]).id)
    return {"users": [_user(user) for user in tx.rows(UserRow, query)]}


@command("user.set")
def user_set(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    user = accounts.user_by_email(tx, arguments["email"])
    if user is None:
        raise NotFound(f"There is no user {arguments['email']}.")
    return _user(
        accounts.change_user(
            tx,
            user.account_id,
            user.id,
            "operator",
            role=arguments.get("role"),
            disabled=arguments.get("disabled"),
            password_hash=arguments.get("password_hash"),
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
def credit_add(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    account_id = accounts.find_account(tx, arguments["account"]).id
    kind, amount = arguments.get("kind") or "credit", _micros(arguments["amount"], "amount")
    if kind == "charge":
        raise InvalidInput.of(
            "kind", "charges are the farm's own: payment, credit, refund or adjustment", kind
        )
    if amount <= 0 and kind != "adjustment":
        raise InvalidInput.of(
            "amount", "must be more than 0; an adjustment may be negative", arguments["amount"]
        )
    signed = -amount if kind == "refund" else amount
    entry = billing.post(tx, account_id, kind, signed, arguments.get("note") or kind, "operator")
    after = {"kind": kind, "amount_micros": signed}
    audit(tx, "operator", "ledger.post", entry, account_id=account_id, after=after)
    return {
        "id": entry,
        "kind": kind,
        "amount_micros": signed,
        "balance_micros": billing.balance(tx, account_id),
    }


@command("price.set")
def price_set(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    on_demand, preemptible = arguments.get("on_demand"), arguments.get("preemptible")
    row = catalog.set_price(
        tx,
        arguments["instance"],
        None if on_demand is None else _micros(on_demand, "on-demand"),
        None if preemptible is None else _micros(preemptible, "preemptible"),
    )
    return asdict(row)


@command("package.register")
def package_register(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    package = catalog.register_package(
        tx,
        id=arguments["id"],
        kind=arguments["kind"],
        path=arguments["path"],
        release=arguments["release"],
        lacks=arguments.get("lacks"),
        default=bool(arguments.get("default")),
    )
    return asdict(package)


@command("package.list")
def package_list(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    return {"packages": [asdict(package) for package in catalog.list_packages(tx)]}


@command("output.add")
def output_add(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    account_id = accounts.find_account(tx, arguments["account"]).id
    url = destinations.grant(tx, account_id, arguments["url"])
    audit(tx, "operator", "output.add", url, account_id=account_id)
    return {"places": destinations.list_destinations(tx, account_id)}


@command("output.remove")
def output_remove(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    account_id = accounts.find_account(tx, arguments["account"]).id
    destinations.revoke(tx, account_id, arguments["url"])
    audit(tx, "operator", "output.remove", arguments["url"], account_id=account_id)
    return {"places": destinations.list_destinations(tx, account_id)}


@command("output.list")
def output_list(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    account_id = accounts.find_account(tx, arguments["account"]).id
    return {"places": destinations.list_destinations(tx, account_id)}


@command("node.list")
def node_list(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    return {"nodes": nodes.listing(tx)}


@command("node.set_aside")
def node_set_aside(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    reason = arguments["reason"].strip()
    if not reason or len(reason) > 500:
        raise InvalidInput.of("reason", "say why, in 500 characters at most", arguments["reason"][:40])
    tx.wake("dispatch")
    return nodes.set_aside(tx, arguments["node"], reason)


@command("node.return")
def node_return(tx: Tx, context: AppContext, arguments: Arguments) -> Reply:
    tx.wake("dispatch")
    return nodes.return_to_use(tx, arguments["node"])
