"""`framefarm budgets …`: list and change an account's budgets, as one of its admins."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from framefarm.cli.options import AsJson, Url, client_of
from framefarm.cli.output import Output, clean, command, money, plural
from framefarm.client import LocalProblem
from framefarm.client.jobs import quoted
from framefarm.core.money import parse_amount

NAMES = {
    "amount_micros": "AMOUNT", "project": "--project", "job": "--job", "period": "--period",
    "warn_at": "--warn-at", "hold_at": "--hold-at", "cancel_at": "--cancel-at", "mode": "--mode",
}  # fmt: skip
"""The API's fields → the arguments and options that set them, for errors."""

PERIODS = {"month": "a month", "total": "in all"}

THRESHOLDS = (("warns", "warn_at"), ("holds", "hold_at"), ("cancels", "cancel_at"))

budgets_app = typer.Typer(
    no_args_is_help=True, help="Budgets: limits on the cost of a job, a project or the account."
)

BudgetId = Annotated[str, typer.Argument(metavar="ID", help="The budget's id.")]

WarnAt = Annotated[str | None, typer.Option(help="Percent at which the account is warned, or none.")]

HoldAt = Annotated[str | None, typer.Option(help="Percent at which jobs are held, or none.")]

CancelAt = Annotated[str | None, typer.Option(help="Percent at which jobs are cancelled, or none.")]


class Mode(StrEnum):
    """At the limit, frames in work end (`drain`), or sessions are stopped before it is passed (`stop`)."""

    drain = "drain"
    stop = "stop"


class Period(StrEnum):
    """Time for which the amount is meant: each calendar month, or all time."""

    month = "month"
    total = "total"


def register(app: typer.Typer) -> None:
    app.add_typer(budgets_app, name="budgets")


@budgets_app.command("list")
def list_budgets(url: Url = None, as_json: AsJson = False) -> None:
    """Show all budgets with the amounts spent, reserved and left."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        rows = list(client.pages("/api/budgets"))
        if as_json:
            out.document({"data": rows})
        elif not rows:
            out.info("No budgets yet. Set one:  framefarm budgets set 100.00")
        for row in rows:
            _print_budget(out, row)


@budgets_app.command("set")
def set_budget(
    amount: Annotated[str, typer.Argument(help="Dollars, as 250 or 12.50.")],
    project: Annotated[str | None, typer.Option(help="For one project only: its name.")] = None,
    job: Annotated[str | None, typer.Option(help="For one job only: its id.")] = None,
    period: Annotated[
        Period | None, typer.Option(help="Per calendar month, or in total. Default: month; for a job: total.")
    ] = None,
    warn_at: WarnAt = None,
    hold_at: HoldAt = None,
    cancel_at: CancelAt = None,
    mode: Annotated[
        Mode, typer.Option(help="At the limit: finish frames in work, or stop them before it.")
    ] = Mode.drain,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set a budget for the account, a project or a job.

    framefarm budgets set 500 --project film --mode stop
    """
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        body: dict[str, Any] = {"amount_micros": _micros(amount), "mode": str(mode)}
        body |= _percents(warn_at, hold_at, cancel_at)
        body |= {k: v for k, v in (("project", project), ("job", job)) if v is not None}
        if period is not None:
            body["period"] = str(period)
        _print_result(out, client.post("/api/budgets", body, idempotency_key=uuid.uuid4().hex))


@budgets_app.command("change")
def change_budget(
    budget: BudgetId,
    amount: Annotated[str | None, typer.Option(help="Dollars, as 250 or 12.50.")] = None,
    warn_at: WarnAt = None,
    hold_at: HoldAt = None,
    cancel_at: CancelAt = None,
    mode: Annotated[
        Mode | None, typer.Option(help="At the limit: finish frames in work, or stop them before it.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Change a budget. Jobs that it holds continue by themselves if the new limit allows it.

    framefarm budgets change bud_01KAXQ2V --amount 750
    """
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        body = _percents(warn_at, hold_at, cancel_at)
        if amount is not None:
            body["amount_micros"] = _micros(amount)
        if mode is not None:
            body["mode"] = str(mode)
        if not body:
            raise LocalProblem("Give a change: --amount, --warn-at, --hold-at, --cancel-at or --mode.")
        _print_result(out, client.patch(f"/api/budgets/{quoted(budget)}", body))


@budgets_app.command("remove")
def remove_budget(budget: BudgetId, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a budget. Jobs that it holds continue by themselves."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        client.delete(f"/api/budgets/{quoted(budget)}")
        if as_json:
            out.document({"id": budget, "removed": True})
        out.print(f"Removed {clean(budget)}.")


def _micros(amount: str) -> int:
    try:
        return parse_amount(amount)
    except ValueError:
        raise LocalProblem(f"{amount!r} is not an amount: give dollars, as 250 or 12.50.") from None


def _percents(warn_at: str | None, hold_at: str | None, cancel_at: str | None) -> dict[str, Any]:
    percents: dict[str, Any] = {}
    for name, text in (("warn_at", warn_at), ("hold_at", hold_at), ("cancel_at", cancel_at)):
        if text is not None:
            option = "--" + name.replace("_", "-")
            if text != "none" and not text.rstrip("%").isdecimal():
                raise LocalProblem(
                    f"{option} {text!r} is not valid: give a whole number of percent, or none."
                )
            percents[name] = None if text == "none" else int(text.rstrip("%"))
    return percents


def _print_result(out: Output, row: Mapping[str, Any]) -> None:
    out.document(row) if out.as_json else _print_budget(out, row)


def _print_budget(out: Output, row: Mapping[str, Any]) -> None:
    project = f"project {row['project']}" if row["project"] else None
    subject = project or row["job"] or "the account"
    out.print(
        f"{clean(row['id'])}  {money(row['amount'])} for {clean(subject)}, {PERIODS[row['period']]}",
        style="bold",
    )
    left = "no limit" if row["left"] is None else f"{money(row['left'])} left"
    out.print(f"  {money(row['spent'])} spent, {money(row['reserved'])} reserved, {left}")
    thresholds = [f"{verb} at {row[name]}%" for verb, name in THRESHOLDS if row[name] is not None]
    held = f"; holds {plural(row['jobs_held'], 'job')}" if row["jobs_held"] else ""
    out.print(f"  {', '.join(thresholds)}; {row['mode']}{held}")
