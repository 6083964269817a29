"""`framefarm rules …`: an account's wrangler rules, as its admins set them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from framefarm.cli.options import AsJson, Url, client_of
from framefarm.cli.output import Output, clean, command, duration, moment, plural
from framefarm.client.jobs import quoted

rules_app = typer.Typer(no_args_is_help=True, help="Wrangler rules: what is done when nobody looks.")

RuleId = Annotated[str, typer.Argument(metavar="ID", help="The rule's id.")]


class OnRuntime(StrEnum):
    kill = "kill"
    retry = "retry"
    notify = "notify"


def register(app: typer.Typer) -> None:
    app.add_typer(rules_app, name="rules")


NAMES = {
    "seconds": "SECONDS", "wait_seconds": "WAIT_SECONDS", "min_priority": "--min-priority",
    "remind_after_seconds": "--remind-after", "fail_after_seconds": "--fail-after",
}  # fmt: skip
"""Fields → the words on the command's line that say them."""


@rules_app.command("list")
def list_rules(url: Url = None, as_json: AsJson = False) -> None:
    """Show all wrangler rules, and what each did last."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        rows = list(client.pages("/api/wrangler/rules"))
        if as_json:
            out.document({"data": rows})
        elif not rows:
            out.note("No rules yet: framefarm rules add-runtime 3600 --action notify")
        for row in rows:
            _say_rule(out, row)


@rules_app.command("add-runtime")
def add_runtime(
    seconds: Annotated[int, typer.Argument(help="How long a try of a task may run.")],
    action: Annotated[OnRuntime, typer.Option(help="What is done then.")] = OnRuntime.retry,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """End tasks that run too long, or point at them.

    framefarm rules add-runtime 7200 --action kill
    """
    _add(url, as_json, {"kind": "max_task_runtime", "seconds": seconds, "action": str(action)})


@rules_app.command("add-on-demand")
def add_on_demand(
    wait_seconds: Annotated[int, typer.Argument(help="How long a job waits for a preemptible machine.")],
    min_priority: Annotated[int, typer.Option(help="Only jobs of this priority or more.")] = 0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let jobs that wait in vain for a preemptible machine go on demand.

    framefarm rules add-on-demand 900 --min-priority 80
    """
    said = {"kind": "spot_to_on_demand", "wait_seconds": wait_seconds, "min_priority": min_priority}
    _add(url, as_json, said)


@rules_app.command("add-upload")
def add_upload(
    remind_after: Annotated[int | None, typer.Option(help="Seconds without a file, then a warning.")] = None,
    fail_after: Annotated[int | None, typer.Option(help="Seconds without a file, then it fails.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Remind of uploads that stalled, and fail their jobs in the end.

    framefarm rules add-upload --remind-after 3600 --fail-after 86400
    """
    said = {"remind_after_seconds": remind_after, "fail_after_seconds": fail_after}
    _add(url, as_json, {"kind": "stalled_upload"} | said)


@rules_app.command("switch")
def switch_rule(
    rule: RuleId,
    on: Annotated[bool, typer.Option("--on/--off", help="Whether it acts.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Switch a rule on or off."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        row = client.patch(f"/api/wrangler/rules/{quoted(rule)}", {"enabled": on})
        out.document(row) if as_json else _say_rule(out, row)


@rules_app.command("remove")
def remove_rule(rule: RuleId, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a rule. What it did stays in the jobs' events and in the audit."""
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        client.delete(f"/api/wrangler/rules/{quoted(rule)}")
        if as_json:
            out.document({"id": rule, "removed": True})
        out.say(f"Removed {clean(rule)}.")


def _add(url: str | None, as_json: bool, body: dict[str, Any]) -> None:
    with command(as_json) as out, client_of(url) as client:
        out.names = NAMES
        row = client.post("/api/wrangler/rules", body, idempotency_key=uuid.uuid4().hex)
        out.document(row) if as_json else _say_rule(out, row)


def _say_rule(out: Output, row: Mapping[str, Any]) -> None:
    off = "" if row["enabled"] else "  (off)"
    out.say(f"{clean(row['id'])}  {clean(row['kind'])}{off}", style="bold")
    terms = [(name, value) for name, value in row["terms"].items() if value is not None]
    words = [
        f"{clean(name.removesuffix('_seconds')).replace('_', ' ')}: "
        + (duration(value) if name.endswith("seconds") else clean(value))
        for name, value in terms
    ]
    out.say("  " + ", ".join(words))
    if row["acted"]:
        times = plural(row["acted"], "time")
        out.say(f"  acted {times}, last {moment(row['last_at'])}: {clean(row['last_reason'])}")
