"""`framefarm admin …`: the operator's commands. They work on a running farm and on a stopped one."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from framefarm.cli.output import money
from framefarm.core.errors import FarmError

admin = typer.Typer(no_args_is_help=True, help="Accounts, users, credit, prices, output destinations, nodes.")
account_app = typer.Typer(no_args_is_help=True, help="Accounts: the farm's tenants.")
user_app = typer.Typer(no_args_is_help=True, help="Users of accounts.")
credit_app = typer.Typer(no_args_is_help=True, help="Payments, credits, refunds and adjustments of accounts.")
price_app = typer.Typer(no_args_is_help=True, help="Prices of instance types.")
node_app = typer.Typer(no_args_is_help=True, help="Nodes: list them, set them aside, return them to use.")
output_app = typer.Typer(no_args_is_help=True, help="Output destinations: where accounts may write frames.")
for group_name, group in (
    ("account", account_app), ("user", user_app), ("credit", credit_app), ("price", price_app),
    ("output", output_app), ("node", node_app),
):  # fmt: skip
    admin.add_typer(group, name=group_name)

Data = Annotated[
    Path,
    typer.Option("--data", envvar="FRAMEFARM_DATA", help="The farm's data directory.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Account = Annotated[str, typer.Option("--account", help="The account's name or id.")]
Email = Annotated[str, typer.Option("--email", help="The user's email.")]
Password = Annotated[str | None, typer.Option("--password", help="The password; prefer --password-file.")]
PasswordFile = Annotated[
    str | None, typer.Option("--password-file", help="Read the password from this file; - is standard input.")
]


class Role(StrEnum):
    """A user's role in the account."""

    admin = "admin"
    member = "member"


class EntryKind(StrEnum):
    """Kind of a ledger entry that an operator may post."""

    payment = "payment"
    credit = "credit"
    refund = "refund"
    adjustment = "adjustment"


def register(app: typer.Typer) -> None:
    app.add_typer(admin, name="admin")


def _run(data: Path, name: str, as_json: bool, **arguments: Any) -> None:
    from framefarm.server.operator import control_socket

    try:
        answer = control_socket.run(data, name, arguments)
    except FarmError as error:
        sys.stderr.write(f"framefarm: {error.detail}\n")
        raise typer.Exit(1) from None
    if as_json:
        sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
        return
    rows = next((v for v in answer.values() if isinstance(v, list)), [answer])
    if not rows and "collected" in answer:
        rows = ["no content, logs or rows are due for removal"]
    for row in rows:
        line = (
            "  ".join(_fact(k, v) for k, v in row.items() if v is not None) if isinstance(row, dict) else row
        )
        sys.stdout.write(f"{line}\n")


def _fact(name: str, value: Any) -> str:
    """A field as text: `balance=-$0.000255`, `present=yes`."""
    if isinstance(value, bool):
        return f"{name}={'yes' if value else 'no'}"
    if name.endswith("_micros"):
        return f"{name.removesuffix('_micros')}={money({'amount_micros': value})}"
    return f"{name}={value}"


def _password(given: str | None, file: str | None) -> str:
    if given is not None:
        return given
    if file == "-":
        return sys.stdin.readline().rstrip("\n")
    if file is not None:
        return Path(file).read_text().rstrip("\n")
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    sys.stderr.write("framefarm: give --password-file FILE (or - for standard input)\n")
    raise typer.Exit(2)


@admin.command("collect")
def collect(
    data: Data,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove unneeded content, logs and rows of deleted jobs now, and list them."""
    _run(data, "collect", as_json, dry_run=dry_run)


@account_app.command("list")
def account_list(data: Data, as_json: Json = False) -> None:
    """List all accounts with their balances."""
    _run(data, "account.list", as_json)


@account_app.command("create")
def account_create(data: Data, account: Account, as_json: Json = False) -> None:
    """Create an account with a project `default`."""
    _run(data, "account.create", as_json, account=account)


@account_app.command("set")
def account_set(
    data: Data,
    account: Account,
    allow_scripts: Annotated[
        str | None, typer.Option(help="Whether scripts in scenes run: yes or no.")
    ] = None,
    credit_limit: Annotated[str | None, typer.Option(help="Dollars, as 500.00; none for no limit.")] = None,
    quota_gib: Annotated[
        int | None, typer.Option(min=0, max=1 << 32, help="GiB of stored files; 0 for no limit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change what an account may do."""
    if allow_scripts not in {None, "yes", "no"}:
        sys.stderr.write(f"framefarm: --allow-scripts {allow_scripts!r} is not valid: give yes or no\n")
        raise typer.Exit(2)
    _run(
        data,
        "account.set",
        as_json,
        account=account,
        credit_limit=credit_limit,
        allow_scripts=None if allow_scripts is None else allow_scripts == "yes",
        quota_bytes=None if quota_gib is None else quota_gib << 30,
    )


@user_app.command("add")
def user_add(
    data: Data,
    account: Account,
    email: Email,
    role: Annotated[Role, typer.Option(help="admin or member.")] = Role.member,
    create_account: Annotated[
        bool, typer.Option("--create-account", help="Create the account, too.")
    ] = False,
    password: Password = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Add a user. Example: framefarm admin user add --data DIR --account studio --email a@b.org"""
    secret = _password(password, password_file)
    _run(
        data,
        "user.add",
        as_json,
        account=account,
        email=email,
        role=str(role),
        create_account=create_account,
        password=secret,
    )


@user_app.command("list")
def user_list(
    data: Data,
    account: Annotated[str | None, typer.Option("--account", help="Only users of this account.")] = None,
    as_json: Json = False,
) -> None:
    """List all users."""
    _run(data, "user.list", as_json, account=account)


@user_app.command("set")
def user_set(
    data: Data,
    email: Email,
    role: Annotated[Role | None, typer.Option(help="admin or member.")] = None,
    disable: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Refuse or allow logins.")
    ] = None,
    password: Password = None,
    password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Change a user's role, access or password. Ends the user's logins and keys."""
    secret = _password(password, password_file) if password is not None or password_file is not None else None
    chosen = None if role is None else str(role)
    _run(data, "user.set", as_json, email=email, role=chosen, disabled=disable, password=secret)


@credit_app.command("add")
def credit_add(
    data: Data,
    account: Account,
    amount: Annotated[str, typer.Option(help="Dollars, as 12.50; up to six decimals.")],
    kind: Annotated[EntryKind, typer.Option(help="Kind of the entry.")] = EntryKind.credit,
    note: Annotated[str, typer.Option(help="Description that the account reads with the entry.")] = "",
    as_json: Json = False,
) -> None:
    """Post a payment, credit, refund or adjustment to an account's ledger."""
    _run(data, "credit.add", as_json, account=account, amount=amount, kind=str(kind), note=note)


@price_app.command("set")
def price_set(
    data: Data,
    instance: Annotated[str, typer.Argument(help="The instance type's id, as local-2.")],
    on_demand: Annotated[str | None, typer.Option(help="Dollars an hour.")] = None,
    preemptible: Annotated[str | None, typer.Option(help="Dollars an hour.")] = None,
    as_json: Json = False,
) -> None:
    """Set an instance type's prices. Running sessions keep the price that they started with."""
    _run(data, "price.set", as_json, instance=instance, on_demand=on_demand, preemptible=preemptible)


@output_app.command("add")
def output_add(
    data: Data,
    account: Account,
    url: Annotated[str, typer.Argument(help="gs://bucket/prefix, s3://bucket/prefix or file:///dir")],
    as_json: Json = False,
) -> None:
    """Give an account an output destination for its frames."""
    _run(data, "output.add", as_json, account=account, url=url)


@output_app.command("list")
def output_list(data: Data, account: Account, as_json: Json = False) -> None:
    """List the output destinations of an account."""
    _run(data, "output.list", as_json, account=account)


@output_app.command("remove")
def output_remove(
    data: Data,
    account: Account,
    url: Annotated[str, typer.Argument(help="The output destination's URL, as `output list` shows it.")],
    as_json: Json = False,
) -> None:
    """Take an output destination back from an account."""
    _run(data, "output.remove", as_json, account=account, url=url)


Node = Annotated[str, typer.Argument(metavar="NAME", help="The node's name, as `node list` shows it.")]


@node_app.command("list")
def node_list(data: Data, as_json: Json = False) -> None:
    """List the farm's nodes: zone, market, state with its reason and time, sessions."""
    _run(data, "node.list", as_json)


@node_app.command("set-aside")
def node_set_aside(
    node: Node,
    data: Data,
    reason: Annotated[str, typer.Option(help="Reason, shown by `node list`, the audit and the log.")],
    as_json: Json = False,
) -> None:
    """Start no sessions on a node, and let its sessions end their task, until it is returned."""
    _run(data, "node.set_aside", as_json, node=node, reason=reason)


@node_app.command("return")
def node_return(node: Node, data: Data, as_json: Json = False) -> None:
    """Put a node that was set aside back into use."""
    _run(data, "node.return", as_json, node=node)
