"""Jobs and bills as text for a terminal."""

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

COLOURS = {
    "success": "green", "running": "cyan", "failed": "red", "holding": "yellow", "preempted": "red",
    "cancelled": "dim", "cancelling": "dim",
}  # fmt: skip
MARKS = {"done": "█", "running": "▓", "pending": "░", "waiting": "·", "failed": "✗", "cancelled": "–"}
MARK_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "cancelled": "dim"}
STRIP_WIDTH = 72
"""Most marks in a strip of frames."""
FOUND = {
    "submit": "in the scene's file",
    "opened": "told by Blender",
    "rendered": "looked for by Blender",
}
"""How a missing file was found."""
ROWS_SHOWN = 10
"""Most rows of each kind in a month's bill, and most missing files listed for a job."""


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(clean(status), style=COLOURS.get(status, ""))


def job_line(job: jobs.Job) -> Text:
    """A job in one line: id, title, status, priority, and why it waits."""
    line = Text(f"{clean(job['id'])}  {clean(job['job_title'])}  ") + status_text(job["status"])
    why = why_it_waits(job)
    return line + Text(f", priority {job['priority']}" + (f" ({why})" if why else ""))


def job_table(listed: Iterable[jobs.Job], width: int) -> Table:
    """A table of jobs for a terminal of `width` columns. Ids are never cut, so that they can be copied."""
    columns: list[tuple[str, Callable[[jobs.Job], str | Text]]] = [
        ("id", lambda job: clean(job["id"])),
        ("title", lambda job: clean(job["job_title"])),
        ("status", lambda job: status_text(job["status"])),
        (">frames", _done_of_all),
        (">cost", lambda job: money(job["cost"])),
    ]
    if width >= 110:
        columns.append(("submitted", lambda job: moment(job["created_at"])))
    if width >= 150:
        columns.append(("project", lambda job: clean(job["project"])))
        columns.append(("user", lambda job: clean(job["user"])))
    table = _table(*(name for name, _ in columns), whole=("id", "status", "frames", "cost", "submitted"))
    for job in listed:
        table.add_row(*(value(job) for _, value in columns))
    return table


def _done_of_all(job: jobs.Job) -> str:
    count = jobs.count(job)
    return f"{count[0]}/{count[1]}" if count else "–"


def print_job(out: Output, job: jobs.Job, frames: Sequence[Mapping[str, Any]]) -> None:
    """Print a job, the most urgent facts first. `frames`: rows of its frames for the strip, or none."""
    since = (
        f" for {duration(_seconds_since(job['status_since']))}" if job["status"] not in jobs.FINISHED else ""
    )
    out.print(Text(f"{clean(job['job_title'])}  ", style="bold") + status_text(job["status"]) + Text(since))
    if job.get("message"):
        out.print(f"  {clean(job['message'])}", style="red")
    if why_it_waits(job):
        out.print(f"  {why_it_waits(job)}", style="yellow")
    files = job.get("missing_files") or []
    for warning in job["warnings"]:
        if files and warning["code"] == "missing_file" and warning.get("subject"):
            continue  # listed below
        subject = f" ({clean(warning['subject'])})" if warning.get("subject") else ""
        out.print(f"  warning: {clean(warning['message'])}{subject}", style="yellow")
    if frames:
        out.print(Text("  ") + strip(frames))
    for name, value in _facts(job):
        out.print(Text(f"  {name:<10}", style="dim") + Text(value))
    _print_missing_files(out, files)
    for path in job["missing_paths"][:ROWS_SHOWN]:
        out.print(f"  missing    {clean(path)}", style="yellow")


def _print_missing_files(out: Output, files: Sequence[Mapping[str, Any]]) -> None:
    """Print the files that the scene wants and the job lacks, with their users."""
    for file in files[:ROWS_SHOWN]:
        user = f", wanted by {clean(file['wanted_by'])}" if file["wanted_by"] else ""
        how = FOUND.get(file["found_by"], clean(file["found_by"]))
        out.print(f"  lacks {clean(file['path'])}{user} ({how}, {moment(file['since'])})", style="yellow")
    if len(files) > ROWS_SHOWN:
        out.print(f"  lacks {len(files) - ROWS_SHOWN} more files: --json lists them", style="yellow")
    if files:
        out.print(f"  {clean(files[0]['remedy'])}", style="yellow")


def _facts(job: jobs.Job) -> Iterable[tuple[str, str]]:
    frames, tasks = jobs.count(job, "frames"), jobs.count(job, "tasks")
    if frames and tasks:
        busy = f", {plural(running(job), 'task')} running" if running(job) else ""
        yield "frames", f"{frames[0]} of {frames[1]} done ({job['progress']:.0%}){busy}"
        yield "tasks", ", ".join(f"{n} {name}" for name, n in job["tasks"].items() if n and name != "total")
    yield (
        "range",
        clean(job["frame_range"]) + (f", scouts {clean(job['scout_frames'])}" if job["scout_frames"] else ""),
    )
    pace = job["average_frame_seconds"]
    forecast = job.get("forecast") or {}
    in_forecast = forecast.get("frames_left") and forecast.get("seconds_left")
    left = ""
    if job["remaining_seconds"] and not in_forecast:
        left = f", about {duration(job['remaining_seconds'])} left"
    yield "cost", money(job["cost"]) + (f", {duration(pace)} a frame{left}" if pace else "")
    if forecast.get("frames_left") and (rest := forecast.get("seconds_left")):
        costs = forecast["cost_left"]
        between = (
            f" ({duration(rest['low'])} to {duration(rest['high'])}; {money(costs['low'])} to"
            f" {money(costs['high'])})"
            if rest["high"] is not None
            else ""
        )
        yield "to come", f"{duration(rest['expected'])}, {money(costs['expected'])}{between}"
    market = f"preemptible, {_retries(job['preemptible_retries'])}" if job["preemptible"] else "on demand"
    yield "machine", f"{clean(job['instance_type'])} ({market})"
    release = f" ({clean(job['blender_release'])})" if job.get("blender_release") else ""
    yield "blender", f"{clean(job['blender_version'])}{release} {clean(job['render_software'])}".rstrip()
    yield "scene", f"{clean(job['scene_path'] or '–')}, {plural(len(job['upload_paths']), 'file')} in all"
    yield "output", clean(job["output_path"])
    yield "submitted", f"{moment(job['created_at'])} by {clean(job['user'])}, project {clean(job['project'])}"
    if job["ended_at"]:
        yield "ended", moment(job["ended_at"])
    yield "id", clean(job["id"])


def _retries(count: int) -> str:
    return f"{count} retry" if count == 1 else f"{count} retries"


def strip(frames: Sequence[Mapping[str, Any]]) -> Text:
    """All frames in order, as marks. A mark for several frames shows the status that most needs attention."""
    order = ["failed", "running", "pending", "waiting", "cancelled", "done"]
    each = -(-len(frames) // STRIP_WIDTH)
    line = Text()
    for start in range(0, len(frames), each):
        group = {str(f["status"]) for f in frames[start : start + each]}
        word = next((w for w in order if w in group), "waiting")
        line.append(MARKS[word], style=MARK_COLOURS.get(word, ""))
    first, last = frames[0]["frame"], frames[-1]["frame"]
    return line + Text(f"  {first}–{last}" if last != first else f"  {first}", style="dim")


def print_job_bill(out: Output, job: jobs.Job, attempts: Sequence[Mapping[str, Any]]) -> None:
    """Print a job's attempts with their costs, ordered by task and start."""
    roomy = out.out.width >= 90
    node = ("node",) if roomy else ()
    table = _table("task", *node, "machine", ">frames", "outcome", ">seconds", ">an hour", ">cost")
    for attempt in sorted(attempts, key=lambda a: (a["task"], a["started_at"] or "")):
        market = " (preemptible)" if attempt["preemptible"] else ""
        table.add_row(
            clean(attempt["task"]),
            *((clean(attempt["node"]),) if roomy else ()),
            f"{clean(attempt['instance_type'])}{market}",
            str(attempt["frames_done"]),
            status_text(attempt["outcome"] or "running"),
            f"{attempt['billed_seconds']:.3f}",
            money(attempt["price_per_hour"]),
            money(attempt["cost"]),
        )
    out.print(f"{clean(job['job_title'])}  {clean(job['id'])}", style="bold")
    out.print(table)
    billed = sum(round(a["billed_seconds"] * 1000) for a in attempts) / 1000
    out.print(f"{plural(len(attempts), 'attempt')}, {billed:.3f} seconds: {money(job['cost'])}", style="bold")


def print_period(out: Output, bill: Mapping[str, Any]) -> None:
    """Print the bill of a month so far."""
    out.print(f"{moment(bill['start'])} to {moment(bill['end'])}", style="bold")
    out.print(f"  cost      {money(bill['total_cost'])}")
    out.print(f"  frames    {bill['frames']:,}")
    out.print(f"  hours     {_hours(bill['core_hours'])} core, {_hours(bill['gpu_hours'])} GPU")
    out.print(f"  saved     {money(bill['spot_savings'])} by preemptible machines")
    out.print(f"  balance   {money(bill['balance'])}")
    for title, key, rows in (
        ("project", "project", bill["by_project"]),
        ("machine", "instance_type", bill["by_instance_type"]),
        ("job", "job_title", bill["by_job"]),
    ):
        for row in rows[:ROWS_SHOWN]:
            out.print(f"  {title:<9} {clean(row[key])}: {money(row['cost'])}")


def _hours(count: float) -> str:
    return f"{count:.2f}" if count >= 1 or not count else f"{count:.4f}"


def print_transactions(out: Output, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print entries of the account's ledger."""
    if not rows:
        out.info("No transactions yet.")
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
    out.print(table)


def _table(*columns: str, whole: Sequence[str] = ()) -> Table:
    """A plain table. A column whose name begins with > is aligned right. Columns in `whole` are never cut;
    the others end in an ellipsis if the terminal is too narrow."""
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
