"""`framefarm watch`: a line for each frame, a live bar, and an exit code that says how the job ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from framefarm.cli.options import AsJson, JobId, Url, client_of
from framefarm.cli.output import Code, Output, clean, command, duration, money, plural
from framefarm.client import Client, jobs
from framefarm.client import follow as following
from framefarm.client.follow import Event
from framefarm.core.frames import FrameSet

PATIENCE_SECONDS = 600.0
"""A farm that is away for so long while it is watched may come back."""
LINES_AT_ONCE = 8
"""More frames that are done at a time get one line together."""


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


def follow(out: Output, client: Client, job_id: str, *, through_holds: bool = False) -> tuple[jobs.Job, Code]:
    """Show a job until it is finished or, unless `through_holds`, holding with nothing running."""
    live = out.err.is_terminal and not out.as_json
    shown: _Bar | _Lines = _Bar(out) if live else _Lines(out)
    job: jobs.Job = {}
    client.patience_seconds = max(client.patience_seconds, PATIENCE_SECONDS)
    with shown.bar if isinstance(shown, _Bar) else nullcontext():
        for seen in following.follow(client, job_id, on_note=out.note):
            job = seen.job
            for line in happened(seen.events):
                out.note(line)
            shown.update(job)
            if job["status"] == "holding" and not through_holds and not running(job):
                break
    return job, _ended(out, job)


def happened(events: list[Event]) -> Iterator[str]:
    """What is worth a line of its own."""
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
                again = ", it is tried again" if data.get("status") == "pending" else ""
                why = f": {data['message']}" if data.get("message") else ""
                yield f"  a try of task {data['task']:03d} has ended ({data['outcome']}{again}){why}"
            case "session.lost":
                yield "  a machine does not answer: its frames may go to others"
            case "session.back":
                yield "  the machine answers again"
            case "budget.warned":
                yield f"  {data.get('message') or 'A budget is nearly spent.'}"
            case "rule.acted":
                yield f"  a rule: {data['reason']}"


def running(job: jobs.Job) -> int:
    """How many tasks are being rendered."""
    return int((job.get("tasks") or {}).get("running", 0))


def why_it_waits(job: jobs.Job) -> str:
    """One clause for a job that is not moving, or an empty one."""
    if not job.get("waiting_for"):
        return ""
    holding = job["status"] == "holding"
    return clean(job["waiting_for"]) if holding else f"waits for {clean(job['waiting_for'])}"


def _ended(out: Output, job: jobs.Job) -> Code:
    done, total = jobs.count(job) or (0, 0)
    summary = f"{done} of {plural(total, 'frame')}, {money(job.get('cost'))}"
    match job["status"]:
        case "success":
            out.say(f"{clean(job['job_title'])}: success, {summary}", style="green")
            if job.get("warnings"):
                count = plural(len(job["warnings"]), "warning")
                out.say(f"  It has {count}:  framefarm job {clean(job['id'])}", style="yellow")
            return Code.OK
        case "holding":
            out.say(f"{clean(job['job_title'])}: holding, {summary}", style="yellow")
            reasons = job.get("hold_reasons") or []
            if "scouts" in reasons:
                out.say("  The scouts have ended.")
                out.say(f"  Look at them:  framefarm download {clean(job['id'])}")
            elif why_it_waits(job):
                out.say(f"  {why_it_waits(job)}")
            if "rule" in reasons:
                out.say(f"  Read them:     framefarm job {clean(job['id'])}")
            if "budget" not in reasons:
                out.say(f"  Go on:         framefarm unhold {clean(job['id'])}")
            return Code.HOLDING
        case status:
            out.say(f"{clean(job['job_title'])}: {clean(status)}, {summary}", style="red")
            if job.get("message"):
                out.say(f"  {clean(job['message'])}")
            return Code.FAILED


class _Bar:
    """One line that is redrawn, and gone at the end."""

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
    """A line when the status changes; frames have theirs anyway."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._said: str | None = None

    def update(self, job: jobs.Job) -> None:
        if job["status"] != self._said:
            self._said = str(job["status"])
            done, total = jobs.count(job) or (0, 0)
            frames = f"{done} of {plural(total, 'frame')}" if total else "reading the scene"
            self._out.note(f"{job['status']}: {frames}, {money(job.get('cost'))}")
