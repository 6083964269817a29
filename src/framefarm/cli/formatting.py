"""How jobs and bills look on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from framefarm.cli.output import Output, clean, duration, moment, money, plural
from framefarm.cli.watch import running, why_it_waits
from framefarm.client import jobs

__all__ = ["job", "job_bill", "job_table", "moment", "one_line", "period", "transactions"]

COLOURS = {
    "success": "green", "running": "cyan", "failed": "red", "holding": "yellow", "preempted": "red",
    "cancelled": "dim", "cancelling": "dim",
}  # fmt: skip
MARKS = {"done": "█", "running": "▓", "pending": "░", "waiting": "·", "failed": "✗", "cancelled": "–"}
MARK_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "cancelled": "dim"}
STRIP_WIDTH = 72
ROWS_SHOWN = 10


def status(word: str) -> Text:
    return Text(clean(word), style=COLOURS.get(word, ""))


def one_line(job: jobs.Job) -> Text:
    line = Text(f"{clean(job['id'])}  {clean(job['job_title'])}  ") + status(job["status"])
    why = why_it_waits(job)
    return line + Text(f", priority {job['priority']}" + (f" ({why})" if why else ""))


def job_table(found: Iterable[jobs.Job], width: int) -> Table:
    """Ids are always whole, to be copied; what else there is room for depends on the terminal's width."""
    columns: list[tuple[str, Callable[[jobs.Job], str | Text]]] = [
        ("id", lambda one: clean(one["id"])),
        ("title", lambda one: clean(one["job_title"])),
        ("status", lambda one: status(one["status"])),
        (">frames", _done_of_all),
        (">cost", lambda one: money(one["cost"])),
    ]
    if width >= 110:
        columns.append(("submitted", lambda one: moment(one["created_at"])))
    if width >= 150:
        columns.append(("project", lambda one: clean(one["project"])))
        columns.append(("user", lambda one: clean(one["user"])))
    table = _table(*(name for name, _ in columns), whole=("id", "status", "frames", "cost", "submitted"))
    for one in found:
        table.add_row(*(value(one) for _, value in columns))
    return table


def _done_of_all(one: jobs.Job) -> str:
    count = jobs.count(one)
    return f"{count[0]}/{count[1]}" if count else "–"


def job(out: Output, it: jobs.Job, frames: Sequence[Mapping[str, Any]]) -> None:
    """Everything worth knowing about a job, the most urgent first."""
    since = (
        f" for {duration(_seconds_since(it['status_since']))}" if it["status"] not in jobs.FINISHED else ""
    )
    out.say(Text(f"{clean(it['job_title'])}  ", style="bold") + status(it["status"]) + Text(since))
    if it.get("message"):
        out.say(f"  {clean(it['message'])}", style="red")
    if why_it_waits(it):
        out.say(f"  {why_it_waits(it)}", style="yellow")
    for warning in it["warnings"]:
        subject = f" ({clean(warning['subject'])})" if warning.get("subject") else ""
        out.say(f"  warning: {clean(warning['message'])}{subject}", style="yellow")
    if frames:
        out.say(Text("  ") + strip(frames))
    for name, value in _facts(it):
        out.say(Text(f"  {name:<10}", style="dim") + Text(value))
    for path in it["missing_paths"][:10]:
        out.say(f"  missing    {clean(path)}", style="yellow")


def _facts(it: jobs.Job) -> Iterable[tuple[str, str]]:
    frames, tasks = jobs.count(it, "frames"), jobs.count(it, "tasks")
    if frames and tasks:
        busy = f", {plural(running(it), 'task')} running" if running(it) else ""
        yield "frames", f"{frames[0]} of {frames[1]} done ({it['progress']:.0%}){busy}"
        yield "tasks", ", ".join(f"{n} {name}" for name, n in it["tasks"].items() if n and name != "total")
    yield (
        "range",
        clean(it["frame_range"]) + (f", scouts {clean(it['scout_frames'])}" if it["scout_frames"] else ""),
    )
    pace = it["average_frame_seconds"]
    forecast = it.get("forecast") or {}
    told = forecast.get("frames_left") and forecast.get("seconds_left")
    left = f", about {duration(it['remaining_seconds'])} left" if it["remaining_seconds"] and not told else ""
    yield "cost", money(it["cost"]) + (f", {duration(pace)} a frame{left}" if pace else "")
    if forecast.get("frames_left") and (rest := forecast.get("seconds_left")):
        costs = forecast["cost_left"]
        between = (
            f" ({duration(rest['low'])} to {duration(rest['high'])}; {money(costs['low'])} to"
            f" {money(costs['high'])})"
            if rest["high"] is not None
            else ""
        )
        yield "to come", f"{duration(rest['expected'])}, {money(costs['expected'])}{between}"
    kind = f"preemptible, {_retries(it['preemptible_retries'])}" if it["preemptible"] else "on demand"
    yield "machine", f"{clean(it['instance_type'])} ({kind})"
    release = f" ({clean(it['blender_release'])})" if it.get("blender_release") else ""
    yield "blender", f"{clean(it['blender_version'])}{release} {clean(it['render_software'])}".rstrip()
    yield "scene", f"{clean(it['scene_path'] or '–')}, {plural(len(it['upload_paths']), 'file')} in all"
    yield "output", clean(it["output_path"])
    yield "submitted", f"{moment(it['created_at'])} by {clean(it['user'])}, project {clean(it['project'])}"
    if it["ended_at"]:
        yield "ended", moment(it["ended_at"])
    yield "id", clean(it["id"])


def _retries(count: int) -> str:
    return f"{count} retry" if count == 1 else f"{count} retries"


def strip(frames: Sequence[Mapping[str, Any]]) -> Text:
    """All frames in order, one mark each, or one for several: then the one that needs most attention."""
    order = ["failed", "running", "pending", "waiting", "cancelled", "done"]
    each = -(-len(frames) // STRIP_WIDTH)
    line = Text()
    for start in range(0, len(frames), each):
        group = {str(f["status"]) for f in frames[start : start + each]}
        word = next((w for w in order if w in group), "waiting")
        line.append(MARKS[word], style=MARK_COLOURS.get(word, ""))
    first, last = frames[0]["frame"], frames[-1]["frame"]
    return line + Text(f"  {first}–{last}" if last != first else f"  {first}", style="dim")


def job_bill(out: Output, it: jobs.Job, attempts: Sequence[Mapping[str, Any]]) -> None:
    roomy = out.out.width >= 90
    node = ("node",) if roomy else ()
    table = _table("task", *node, "machine", ">frames", "outcome", ">seconds", ">an hour", ">cost")
    for one in sorted(attempts, key=lambda a: (a["task"], a["started_at"] or "")):
        kind = " (preemptible)" if one["preemptible"] else ""
        table.add_row(
            clean(one["task"]),
            *((clean(one["node"]),) if roomy else ()),
            f"{clean(one['instance_type'])}{kind}",
            str(one["frames_done"]),
            status(one["outcome"] or "running"),
            f"{one['billed_seconds']:.3f}",
            money(one["price_per_hour"]),
            money(one["cost"]),
        )
    out.say(f"{clean(it['job_title'])}  {clean(it['id'])}", style="bold")
    out.say(table)
    billed = sum(round(one["billed_seconds"] * 1000) for one in attempts) / 1000
    out.say(f"{plural(len(attempts), 'attempt')}, {billed:.3f} seconds: {money(it['cost'])}", style="bold")


def period(out: Output, bill: Mapping[str, Any]) -> None:
    out.say(f"{moment(bill['start'])} to {moment(bill['end'])}", style="bold")
    out.say(f"  cost      {money(bill['total_cost'])}")
    out.say(f"  frames    {bill['frames']:,}")
    out.say(f"  hours     {_hours(bill['core_hours'])} core, {_hours(bill['gpu_hours'])} GPU")
    out.say(f"  saved     {money(bill['spot_savings'])} by preemptible machines")
    out.say(f"  balance   {money(bill['balance'])}")
    for title, key, rows in (
        ("project", "project", bill["by_project"]),
        ("machine", "instance_type", bill["by_instance_type"]),
        ("job", "job_title", bill["by_job"]),
    ):
        for row in rows[:ROWS_SHOWN]:
            out.say(f"  {title:<9} {clean(row[key])}: {money(row['cost'])}")


def _hours(count: float) -> str:
    return f"{count:.2f}" if count >= 1 or not count else f"{count:.4f}"


def transactions(out: Output, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        out.note("No transactions yet.")
        return
    table = _table("when", "kind", "what for", ">amount", ">balance", whole=("when", "amount", "balance"))
    for row in rows:
        table.add_row(
            moment(row["at"]),
            clean(row["kind"]),
            clean(row["description"]),
            money(row["amount"]),
            money(row["balance"]),
        )
    out.say(table)


def _table(*columns: str, whole: Sequence[str] = ()) -> Table:
    """A plain table. A column whose name begins with > is aligned right; those in `whole` are never cut or
    wrapped, of the others what does not fit ends in an ellipsis."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        bare = name.lstrip(">")
        right = name != bare
        keep = bare in whole
        table.add_column(
            bare,
            justify="right" if right else "left",
            overflow="fold" if keep else "ellipsis",
            no_wrap=True,
        )
    return table


def _seconds_since(rfc3339: str) -> float:
    try:
        then = datetime.fromisoformat(rfc3339)
    except ValueError:
        return 0.0
    return max((datetime.now(UTC) - then).total_seconds(), 0.0)
