"""`framefarm rules …`: list and change an account's wrangler rules, as one of its admins."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from framefarm.cli.options import AsJson, Url, client_of
from framefarm.cli.output import Output, clean, command, duration, moment, plural
from framefarm.client.jobs import quoted

NAMES = {
    "seconds": "SECONDS", "wait_seconds": "WAIT_SECONDS", "min_priority": "--min-priority",
    "remind_after_seconds": "--remind-after", "fail_after_seconds": "--fail-after",
}  # fmt: skip
"""The API's fields → the arguments and options that set them, for errors."""

rules_app = typer.Typer(no_args_is_help=True, help="Wrangler rules, which act on jobs that are stuck.")

RuleId = Annotated[str, typer.Argument(metavar="ID", help="The rule's id.")]


class RuntimeAction(StrEnum):
    """A rule's action on a task that runs too long: fail it, retry it, or only report it."""

    kill = "kill"
    retry = "retry"
    notify = "notify"


def register(app: typer.Typer) -> None:
    app.add_typer(rules_app, name="rules")


@rules_app.command("list")
def list_rules(url: Url = None, as_json: AsJson = False) -> None:
    """Show all wrangler rules and the last action of each."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        rows = list(client.pages("/api/wrangler/rules"))
        if as_json:
            out.document({"data": rows})
        elif not rows:
            out.info("No rules yet. Add one:  framefarm rules add-runtime 3600 --action notify")
        for row in rows:
            _print_rule(out, row)


@rules_app.command("add-runtime")
def add_runtime(
    seconds: Annotated[int, typer.Argument(help="How long an attempt of a task may run.")],
    action: Annotated[
        RuntimeAction, typer.Option(help="Fail the task, retry it, or only notify.")
    ] = RuntimeAction.retry,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Add a rule that ends tasks that run too long, or reports them.

    framefarm rules add-runtime 7200 --action kill
    """
    _add(url, as_json, {"kind": "max_task_runtime", "seconds": seconds, "action": str(action)})


@rules_app.command("add-on-demand")
def add_on_demand(
    wait_seconds: Annotated[int, typer.Argument(help="How long a job may wait for a preemptible machine.")],
    min_priority: Annotated[int, typer.Option(help="Only jobs of this priority or more.")] = 0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Add a rule that moves jobs on demand if they wait too long for a preemptible machine.

    framefarm rules add-on-demand 900 --min-priority 80
    """
    body = {"kind": "spot_to_on_demand", "wait_seconds": wait_seconds, "min_priority": min_priority}
    _add(url, as_json, body)


@rules_app.command("add-upload")
def add_upload(
    remind_after: Annotated[int | None, typer.Option(help="Seconds without a file until a warning.")] = None,
    fail_after: Annotated[int | None, typer.Option(help="Seconds without a file until it fails.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Add a rule that warns of stalled uploads, and later fails their jobs.

    framefarm rules add-upload --remind-after 3600 --fail-after 86400
    """
    terms = {"remind_after_seconds": remind_after, "fail_after_seconds": fail_after}
    _add(url, as_json, {"kind": "stalled_upload"} | terms)


@rules_app.command("switch")
def switch_rule(
    rule: RuleId,
    on: Annotated[bool, typer.Option("--on/--off", help="Whether the rule acts.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Switch a rule on or off."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        row = client.patch(f"/api/wrangler/rules/{quoted(rule)}", {"enabled": on})
        out.document(row) if as_json else _print_rule(out, row)


@rules_app.command("remove")
def remove_rule(rule: RuleId, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a rule. Its past actions stay in the jobs' events and in the audit."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        client.delete(f"/api/wrangler/rules/{quoted(rule)}")
        if as_json:
            out.document({"id": rule, "removed": True})
        out.print(f"Removed {clean(rule)}.")


def _add(url: str | None, as_json: bool, body: dict[str, Any]) -> None:
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        row = client.post("/api/wrangler/rules", body, idempotency_key=uuid.uuid4().hex)
        out.document(row) if as_json else _print_rule(out, row)


def _print_rule(out: Output, row: Mapping[str, Any]) -> None:
    off = "" if row["enabled"] else "  (off)"
    out.print(f"{clean(row['id'])}  {clean(row['kind'])}{off}", style="bold")
    terms = [(name, value) for name, value in row["terms"].items() if value is not None]
    facts = [
        f"{clean(name.removesuffix('_seconds')).replace('_', ' ')}: "
        + (duration(value) if name.endswith("seconds") else clean(value))
        for name, value in terms
    ]
    out.print("  " + ", ".join(facts))
    if row["acted"]:
        times = plural(row["acted"], "time")
        out.print(f"  acted {times}, last {moment(row['last_at'])}: {clean(row['last_reason'])}")
