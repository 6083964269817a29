"""`framefarm watch`: a line for each frame, a live bar, and an exit code for the end of the job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from framefarm.cli.options import AsJson, JobId, Url, client_of
from framefarm.cli.output import ExitCode, Output, clean, command, duration, money, plural
from framefarm.client import Client, jobs
from framefarm.client import follow as following
from framefarm.client.follow import Event
from framefarm.core.frames import FrameSet

PATIENCE_SECONDS = 600.0
"""How long `watch` retries while the farm does not answer."""
LINES_AT_ONCE = 8
"""Frames that are done at the same time get a line each, up to so many; more get one line together."""


def register(app: typer.Typer) -> None:
    app.command("watch")(watch)


def watch(
    job_id: JobId,
    through_holds: Annotated[
        bool, typer.Option("--through-holds", help="Keep watching while the job is holding.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job to its end. Exit code 0: success, 1: failed or cancelled, 3: it is holding.

    framefarm watch job_01KAXQ2V
    """
    with command(as_json) as out, client_of(url) as client:
        job, code = follow(out, client, job_id, through_holds=through_holds)
        if as_json:
            out.document(job)
        raise typer.Exit(code)


def follow(
    out: Output, client: Client, job_id: str, *, through_holds: bool = False
) -> tuple[jobs.Job, ExitCode]:
    """Show a job until it is finished or holds with no task running. `through_holds`: holds do not end it.

    Returns the job as last read, and the exit code for its status.
    """
    live = out.err.is_terminal and not out.as_json
    shown: _Bar | _Lines = _Bar(out) if live else _Lines(out)
    job: jobs.Job = {}
    client.patience_seconds = max(client.patience_seconds, PATIENCE_SECONDS)
    with shown.bar if isinstance(shown, _Bar) else nullcontext():
        for update in following.follow(client, job_id, on_note=out.info):
            job = update.job
            for line in event_lines(update.events):
                out.info(line)
            shown.update(job)
            if job["status"] == "holding" and not through_holds and not running(job):
                break
    return job, _print_end(out, job)


def event_lines(events: list[Event]) -> Iterator[str]:
    """Lines for those of the events that an artist should see."""
    done = [e["data"] for e in events if e["type"] == "frame.done"]
    if len(done) > LINES_AT_ONCE:
        frames = FrameSet.of(d["frame"] for d in done)
        yield f"  {plural(len(done), 'frame')} done: {frames.to_text()}"
    for event in events:
        data = event["data"]
        match event["type"]:
            case "frame.done" if len(done) <= LINES_AT_ONCE:
                yield f"  frame {data['frame']:<6} {duration(data.get('seconds'))}"
            case "frame.warning":
                yield f"  frame {data['frame']}: {data['message']}"
            case "task.attempt_ended":
                again = ", the task is retried" if data.get("status") == "pending" else ""
                why = f": {data['message']}" if data.get("message") else ""
                yield f"  an attempt of task {data['task']:03d} ended ({data['outcome']}{again}){why}"
            case "session.lost":
                yield "  a machine does not answer: its frames may be given to others"
            case "session.back":
                yield "  the machine answers again"
            case "budget.warned":
                yield f"  {data.get('message') or 'A budget is nearly spent.'}"
            case "rule.acted":
                yield f"  a rule: {data['reason']}"


def running(job: jobs.Job) -> int:
    """Number of the job's tasks that are being rendered."""
    return int((job.get("tasks") or {}).get("running", 0))


def why_it_waits(job: jobs.Job) -> str:
    """One clause on why a job does not progress. Empty if it does."""
    if not job.get("waiting_for"):
        return ""
    holding = job["status"] == "holding"
    return clean(job["waiting_for"]) if holding else f"waits for {clean(job['waiting_for'])}"


def _print_end(out: Output, job: jobs.Job) -> ExitCode:
    done, total = jobs.count(job) or (0, 0)
    summary = f"{done} of {plural(total, 'frame')}, {money(job.get('cost'))}"
    match job["status"]:
        case "success":
            out.print(f"{clean(job['job_title'])}: success, {summary}", style="green")
            if job.get("missing_files"):
                count = plural(len(job["missing_files"]), "file")
                out.print(f"  It was rendered without {count} that the scene wants.", style="yellow")
            if job.get("warnings"):
                count = plural(len(job["warnings"]), "warning")
                out.print(f"  It has {count}:  framefarm job {clean(job['id'])}", style="yellow")
            return ExitCode.OK
        case "holding":
            out.print(f"{clean(job['job_title'])}: holding, {summary}", style="yellow")
            reasons = job.get("hold_reasons") or []
            if "scouts" in reasons:
                out.print("  The scouts have ended.")
                out.print(f"  Download them: framefarm download {clean(job['id'])}")
            elif why_it_waits(job):
                out.print(f"  {why_it_waits(job)}")
            if "rule" in reasons:
                out.print(f"  See why:       framefarm job {clean(job['id'])}")
            if "budget" not in reasons:
                out.print(f"  Continue:      framefarm unhold {clean(job['id'])}")
            return ExitCode.HOLDING
        case status:
            out.print(f"{clean(job['job_title'])}: {clean(status)}, {summary}", style="red")
            if job.get("message"):
                out.print(f"  {clean(job['message'])}")
            return ExitCode.FAILED


class _Bar:
    """A progress bar on one line, removed at the end."""

    def __init__(self, out: Output) -> None:
        self.bar = Progress(
            TextColumn("{task.fields[status]}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[frames]}"),
            TextColumn("{task.fields[details]}", style="dim"),
            console=out.err,
            transient=True,
        )
        self._task: TaskID | None = None

    def update(self, job: jobs.Job) -> None:
        done, total = jobs.count(job) or (0, 0)
        details = [f"{plural(running(job), 'task')} running"] if running(job) else []
        details.append(money(job.get("cost")))
        if job.get("remaining_seconds") is not None and job["status"] == "running":
            details.append(f"{duration(job['remaining_seconds'])} left")
        fields: dict[str, Any] = {
            "status": clean(job["status"]),
            "frames": f"{done}/{total} frames" if total else "reading the scene",
            "details": " · ".join(details),
        }
        if self._task is None:
            self._task = self.bar.add_task("", total=total or None, **fields)
        parts = sum(f["fraction"] or 0 for f in job.get("frames_in_work") or [])
        self.bar.update(self._task, completed=min(done + parts, total), total=total or None, **fields)


class _Lines:
    """A line for each change of the job's status. Frames have lines of their own (`event_lines`)."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._status: str | None = None

    def update(self, job: jobs.Job) -> None:
        if job["status"] != self._status:
            self._status = str(job["status"])
            done, total = jobs.count(job) or (0, 0)
            frames = f"{done} of {plural(total, 'frame')}" if total else "reading the scene"
            self._out.info(f"{job['status']}: {frames}, {money(job.get('cost'))}")
