"""Commands on jobs: `framefarm jobs`, `job`, `hold` and so on, apart from `submit` and `watch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from framefarm.cli import formatting, submit, watch
from framefarm.cli.options import AsJson, JobId, Url, client_of
from framefarm.cli.output import Output, clean, command, plural, size
from framefarm.client import Client, LocalProblem, Refused, download, jobs
from framefarm.core.output_names import safe_path

SHOWN_RENAMED = 20
"""Most downloaded files that are named one by one for their changed names."""
FRAMES_SHOWN = 5000
"""`framefarm job` draws the strip of frames for jobs of at most so many frames."""


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
    app.command("download")(download_job)
    app.command("bill")(bill)


def list_jobs(
    status: Annotated[
        str | None, typer.Option("--status", help="Only jobs with this status, as running or failed.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="Only jobs of this project, by name.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only jobs that this user submitted.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", "-s", help="Only jobs with this in their title.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many jobs.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    framefarm jobs --status running
    """
    with command(as_json) as out, client_of(url) as client:
        matching = list(jobs.find(client, limit=limit, status=status, project=project, user=user, q=search))
        if as_json:
            out.document({"data": matching})
        elif not matching:
            out.info(
                "No jobs match these options."
                if status or project or user or search
                else "No jobs yet. Submit one:  framefarm submit SCENE.blend"
            )
        else:
            out.print(formatting.job_table(matching, out.out.width))


def show_job(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job: its frames, its cost, and why it waits or failed.

    framefarm job job_01KAXQ2V
    """
    with command(as_json) as out, client_of(url) as client:
        job = jobs.get(client, job_id)
        if as_json:
            out.document(job)
            return
        count = jobs.count(job)
        frames = list(jobs.frames(client, job_id)) if count and count[1] <= FRAMES_SHOWN else []
        formatting.print_job(out, job, frames)


def show_log(
    job_id: JobId,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's number, as 003 or 3.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Print Blender's log of a task.

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
    now: Annotated[bool, typer.Option("--now", help="Also stop the frames that are being rendered.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Hold a job: the frames being rendered are finished, no others are started.

    framefarm hold job_01KAXQ2V
    """
    _change(job_id, url, as_json, action="hold", drain=False if now else None)


def unhold(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Continue a job after a hold or after its scouts.

    framefarm unhold job_01KAXQ2V
    """
    _change(job_id, url, as_json, action="unhold")


def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a job for good. Finished frames are kept.

    framefarm cancel job_01KAXQ2V
    """
    _change(job_id, url, as_json, action="cancel")


def priority(
    job_id: JobId,
    value: Annotated[
        int, typer.Argument(metavar="PRIORITY", help="0 to 100; jobs of higher priority go first.")
    ],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set a job's priority among the account's jobs.

    framefarm priority job_01KAXQ2V 80
    """
    _change(job_id, url, as_json, priority=value)


def _change(job_id: str, url: str | None, as_json: bool, **change: Any) -> None:
    with command(as_json) as out, client_of(url) as client:
        job = jobs.change(client, job_id, **change)
        if as_json:
            out.document(job)
        out.print(formatting.job_line(job))


def retry(
    job_id: JobId,
    frames: Annotated[
        str | None, typer.Option("--frames", "-f", help="Render exactly these again, finished ones too.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Render only this failed task again; repeatable.")
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
        out.print(
            f"Rendering again: task {tasks}." if tasks else "The job has no failed tasks to render again."
        )


def delete(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Delete a finished job from the farm. Its delivered frames and its bill are kept.

    framefarm delete job_01KAXQ2V
    """
    with command(as_json) as out, client_of(url) as client:
        jobs.delete(client, job_id)
        if as_json:
            out.document({"id": job_id, "deleted": True})
        out.print(f"{clean(job_id)} is deleted.")


def download_job(
    job_id: JobId,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder to download to. Default: named like the job.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Download the frames rendered so far, and verify every checksum. Run it again for the rest.

    framefarm download job_01KAXQ2V renders/
    """
    with command(as_json) as out, client_of(url) as client:
        job = _job_if_not_deleted(client, job_id)
        destination = folder or Path(safe_path(submit.as_folder(job["job_title"] if job else job_id)))
        files = download.list_files(client, job_id)
        with out.bytes_bar("Downloading", sum(int(f["size"]) for f in files)) as bar:
            report = download.download(
                client, files, destination, on_bytes=lambda count: bar.advance(bar.task_ids[0], count)
            )
        if as_json:
            out.document(
                {
                    "job": job_id if job is None else job["id"],
                    "folder": str(destination),
                    "fetched": report.fetched,
                    "already_there": report.already_there,
                    "renamed": [{"path": path, "name": name} for path, name in report.renamed],
                    "kept": [{"path": path, "name": name} for path, name in report.kept],
                    "problems": [{"path": path, "message": problem} for path, problem in report.problems],
                }
            )
        _print_downloaded(out, job, report, destination)
        report.check()


def _job_if_not_deleted(client: Client, job_id: str) -> jobs.Job | None:
    """The job; None if it is deleted or unknown: the files of a deleted one are listed for a while."""
    try:
        return jobs.get(client, job_id)
    except Refused as refused:
        if refused.status != 404:
            raise
        return None


def _print_downloaded(
    out: Output, job: jobs.Job | None, report: download.DownloadResult, destination: Path
) -> None:
    others = f", {len(report.already_there)} were there already" if report.already_there else ""
    amount = f"{plural(len(report.fetched), 'file')} ({size(report.size_bytes)}) verified"
    if not report.fetched and report.already_there:
        amount, others = f"{plural(len(report.already_there), 'file')} verified, all there already,", ""
    out.print(f"{amount} in {clean(destination)}{others}.")
    for path, name in report.renamed[:SHOWN_RENAMED]:
        out.print(f"  {clean(path)} is here {clean(name)}: not every system takes its name.")
    if len(report.renamed) > SHOWN_RENAMED:
        out.print(f"  … and {len(report.renamed) - SHOWN_RENAMED} more, in the same way.")
    for path, name in report.kept[:SHOWN_RENAMED]:
        out.print(f"  {clean(path)} was there already, another file: it is now {clean(name)}.")
    if len(report.kept) > SHOWN_RENAMED:
        out.print(f"  … and {len(report.kept) - SHOWN_RENAMED} more.")
    if job is None:
        out.info("The job is deleted.")
        return
    done, total = jobs.count(job) or (0, 0)
    if done < total:
        out.info(f"{done} of {total} frames are done so far.")


def bill(
    job_id: Annotated[
        str | None, typer.Option("--job", metavar="ID", help="Show one job's attempts and the cost of each.")
    ] = None,
    transactions: Annotated[
        bool, typer.Option("--transactions", help="Show charges, payments and credits, newest first.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Show at most this many transactions.")
    ] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show the costs of this month so far, a job's bill, or all transactions.

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
                formatting.print_job_bill(out, job, attempts)
        elif transactions:
            rows = list(client.pages("/api/billing/transactions", limit=limit))
            out.document({"data": rows}) if as_json else formatting.print_transactions(out, rows)
        else:
            period = client.get("/api/billing/current-period")
            out.document(period) if as_json else formatting.print_period(out, period)
