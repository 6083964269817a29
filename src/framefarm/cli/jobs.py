"""Commands on jobs, but for `submit` and `watch`, which have files of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from framefarm.cli import formatting, submit, watch
from framefarm.cli.options import AsJson, JobId, Url, client_of
from framefarm.cli.output import Output, clean, command, plural, size
from framefarm.client import LocalProblem, download, jobs

FRAMES_SHOWN = 5000
"""A job with more frames than this is shown without its strip."""


def register(app: typer.Typer) -> None:
    submit.register(app)
    app.command("jobs")(list_jobs)
    app.command("job")(show_job)
    watch.register(app)
    for name, function in (("hold", hold), ("unhold", unhold), ("cancel", cancel), ("retry", retry)):
        app.command(name)(function)
    app.command("priority")(priority)
    app.command("delete")(delete)
    app.command("log")(show_log)
    app.command("download")(fetch)
    app.command("bill")(bill)


def list_jobs(
    status: Annotated[str | None, typer.Option("--status", help="For example running or failed.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="Project's name.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Who submitted it.")] = None,
    search: Annotated[str | None, typer.Option("--search", "-s", help="Part of the title.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    framefarm jobs --status running
    """
    with command(as_json) as out, client_of(url) as client:
        found = list(jobs.find(client, limit=limit, status=status, project=project, user=user, q=search))
        if as_json:
            out.document({"data": found})
        elif not found:
            out.note(
                "No such jobs."
                if status or project or user or search
                else "No jobs yet:  framefarm submit SCENE.blend"
            )
        else:
            out.say(formatting.job_table(found, out.out.width))


def show_job(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job: why it waits or failed, its frames, its cost.

    framefarm job job_01KAXQ2V
    """
    with command(as_json) as out, client_of(url) as client:
        job = jobs.get(client, job_id)
        if as_json:
            out.document(job)
            return
        count = jobs.count(job)
        frames = list(jobs.frames(client, job_id)) if count and count[1] <= FRAMES_SHOWN else []
        formatting.job(out, job, frames)


def show_log(
    job_id: JobId,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's number, as 003.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Print what Blender said while it rendered a task.

    framefarm log job_01KAXQ2V 003
    """
    with command(as_json) as out, client_of(url) as client:
        out.names = {"number": "TASK"}
        text = jobs.log(client, job_id, task)
        if as_json:
            out.document({"job": job_id, "task": task, "log": text})
        else:
            sys.stdout.write(clean(text, lines=True))


def hold(
    job_id: JobId,
    now: Annotated[bool, typer.Option("--now", help="Also stop the frames that are in work.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Begin no more frames of a job; those in work are finished.

    framefarm hold job_01KAXQ2V
    """
    _change(job_id, url, as_json, action="hold", drain=False if now else None)


def unhold(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Let a job go on, after a hold or after its scouts.

    framefarm unhold job_01KAXQ2V
    """
    _change(job_id, url, as_json, action="unhold")


def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """End a job for good. Frames that are done stay.

    framefarm cancel job_01KAXQ2V
    """
    _change(job_id, url, as_json, action="cancel")


def priority(
    job_id: JobId,
    value: Annotated[int, typer.Argument(metavar="PRIORITY", help="0 to 100; higher goes first.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let a job go before or after others.

    framefarm priority job_01KAXQ2V 80
    """
    _change(job_id, url, as_json, priority=value)


def _change(job_id: str, url: str | None, as_json: bool, **change: Any) -> None:
    with command(as_json) as out, client_of(url) as client:
        job = jobs.change(client, job_id, **change)
        if as_json:
            out.document(job)
        out.say(formatting.one_line(job))


def retry(
    job_id: JobId,
    frames: Annotated[
        str | None, typer.Option("--frames", "-f", help="Render exactly these again, done ones too.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this failed task; repeatable.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Render all failed tasks of a job again, or chosen frames.

    framefarm retry job_01KAXQ2V --frames 5,7
    """
    with command(as_json) as out, client_of(url) as client:
        if frames is not None and task:
            raise LocalProblem("Give --frames or --task, not both.")
        out.names = {"frames": "--frames", "number": "--task"}
        answer = jobs.retry(client, job_id, frames=frames, tasks=task)
        if as_json:
            out.document(answer)
        tasks = ", ".join(clean(t) for t in answer["retried"])
        out.say(f"Rendering again: task {tasks}." if tasks else "Nothing to render again.")


def delete(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a finished job from the farm. Its delivered frames and its bill stay.

    framefarm delete job_01KAXQ2V
    """
    with command(as_json) as out, client_of(url) as client:
        jobs.delete(client, job_id)
        if as_json:
            out.document({"id": job_id, "deleted": True})
        out.say(f"{clean(job_id)} is deleted.")


def fetch(
    job_id: JobId,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Where to. Default: a folder of the job's title.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Fetch what a job has rendered so far, and verify every checksum. Run it again to fetch the rest.

    framefarm download job_01KAXQ2V renders/
    """
    with command(as_json) as out, client_of(url) as client:
        job = jobs.get(client, job_id)
        where = folder or Path(submit.as_folder(job["job_title"]))
        files = download.list_files(client, job_id)
        with out.bytes_bar("Downloading", sum(int(f["size"]) for f in files)) as bar:
            report = download.download(
                client, files, where, on_bytes=lambda count: bar.advance(bar.task_ids[0], count)
            )
        if as_json:
            out.document(
                {
                    "job": job["id"],
                    "folder": str(where),
                    "fetched": report.fetched,
                    "already_there": report.already_there,
                    "problems": [{"path": path, "message": problem} for path, problem in report.problems],
                }
            )
        _say_fetched(out, job, report, where)
        report.check()


def _say_fetched(out: Output, job: jobs.Job, report: download.DownloadResult, where: Path) -> None:
    there = f", {len(report.already_there)} were there already" if report.already_there else ""
    amount = f"{plural(len(report.fetched), 'file')} ({size(report.size_bytes)}) verified"
    if not report.fetched and report.already_there:
        amount, there = f"{plural(len(report.already_there), 'file')} verified, all there already,", ""
    out.say(f"{amount} in {clean(where)}{there}.")
    done, total = jobs.count(job) or (0, 0)
    if done < total:
        out.note(f"{done} of {total} frames are done so far.")


def bill(
    job_id: Annotated[
        str | None, typer.Option("--job", metavar="ID", help="One job's attempts, and what each cost.")
    ] = None,
    transactions: Annotated[
        bool, typer.Option("--transactions", help="Charges, payments and credits, newest first.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many transactions.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what this month costs so far, a job's bill, or all entries.

    framefarm bill --job job_01KAXQ2V
    """
    with command(as_json) as out, client_of(url) as client:
        if job_id is not None and transactions:
            raise LocalProblem("Give --job or --transactions, not both.")
        if job_id is not None:
            job = jobs.get(client, job_id)
            attempts = list(client.pages(f"/api/jobs/{jobs.quoted(job_id)}/attempts"))
            if as_json:
                out.document({"job": job["id"], "cost": job["cost"], "attempts": attempts})
            else:
                formatting.job_bill(out, job, attempts)
        elif transactions:
            rows = list(client.pages("/api/billing/transactions", limit=limit))
            out.document({"data": rows}) if as_json else formatting.transactions(out, rows)
        else:
            period = client.get("/api/billing/current-period")
            out.document(period) if as_json else formatting.period(out, period)
