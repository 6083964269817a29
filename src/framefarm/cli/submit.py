"""`framefarm submit`: upload a scene with the files it needs, and submit it as a job."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from framefarm.cli.options import AsJson, Url, client_of, pairs
from framefarm.cli.output import ExitCode, Output, clean, command, money, plural, size
from framefarm.cli.watch import follow
from framefarm.client import Client, LocalProblem, dependencies, fitness, hashing, jobs, scene_process, upload
from framefarm.client.dependencies import Doubt, MissingFile
from framefarm.client.scene_facts import SceneFacts

MAX_TITLE = 200
"""Characters of a job's title."""
SHOWN_MISSING = 20
"""Most missing files that are named one by one."""
OPTIONS = {
    "job_title": "--title", "project": "--project", "instance_type": "--instance",
    "preemptible": "--preemptible",
    "preemptible_retries": "--preemptible-retries", "chunk_size": "--chunk", "frame_range": "--frames",
    "scout_frames": "--scouts", "blender_version": "--blender", "render_software": "--engine",
    "output_path": "--output", "environment_variables": "--env", "metadata": "--metadata",
    "scene": "--scene-name", "camera": "--camera", "view_layers": "--view-layer", "samples": "--samples",
    "resolution_percentage": "--resolution-percentage", "priority": "--priority",
    "max_sessions": "--max-sessions", "task_retries": "--task-retries",
    "max_task_runtime_seconds": "--max-task-runtime", "depends_on": "--depends-on",
    "on_missing_files": "--on-missing-files", "on_blocked_scripts": "--on-blocked-scripts",
    "addons": "--addon", "output_name": "--output-name", "notify": "--notify", "notify.on": "--notify-on",
}  # fmt: skip
"""A submission's fields → the options that set them, for errors."""


def register(app: typer.Typer) -> None:
    app.command("submit")(submit)


def submit(
    scene: Annotated[Path, typer.Argument(metavar="SCENE", help="The .blend to render.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="More files or folders that the scene needs."),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            "--frames", "-f", help="1-100, 1,5,9-20, 1-100x5, fml:3 or current. Default: the scene's."
        ),
    ] = None,
    scouts: Annotated[
        str, typer.Option("--scouts", help="Frames to render first, before a hold: fml:3, auto:5 or 1,50.")
    ] = "",
    chunk: Annotated[int, typer.Option("--chunk", help="Frames per task, 1 to 1000.")] = 1,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Instance type's id. Default: the cheapest.")
    ] = None,
    blender: Annotated[
        str | None, typer.Option("--blender", help="blender-4-2 or 4.2. Default: the scene's, if offered.")
    ] = None,
    project: Annotated[str, typer.Option("--project", help="Project's name.")] = "default",
    title: Annotated[
        str | None, typer.Option("--title", help="Job's title. Default: the scene's name.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", help="a/b, gs://bucket/a, s3://bucket/a or file:///dir. Default: PROJECT/SCENE."
        ),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option(
            "--output-name",
            metavar="NAME",
            help="Name of the pictures; # stands for the frame: shot_####. Default: SCENE_####.",
        ),
    ] = None,
    preemptible: Annotated[
        bool | None,
        typer.Option("--preemptible/--on-demand", help="Cheaper, but may be preempted. Default: if offered."),
    ] = None,
    preemptible_retries: Annotated[
        int | None,
        typer.Option("--preemptible-retries", help="How often a task may be preempted. [default: 1]"),
    ] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="0 to 100. [default: 50]")] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Submit it held; `framefarm unhold` starts it.")
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", help="cycles, eevee or workbench. Default: the scene's.")
    ] = "",
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="Environment variable; repeatable."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="NAME=VALUE", help="A fact to store with the job; repeatable."),
    ] = None,
    scene_name: Annotated[
        str | None, typer.Option("--scene-name", help="Scene within the file. Default: the active one.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option("--camera", help="Camera object. Default: the scene's.")
    ] = None,
    view_layer: Annotated[
        list[str] | None,
        typer.Option("--view-layer", help="View layer to render; repeatable. Default: the scene's."),
    ] = None,
    resolution_percentage: Annotated[
        int | None, typer.Option("--resolution-percentage", help="Percent of the scene's resolution.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Samples per pixel. Default: the scene's.")
    ] = None,
    max_sessions: Annotated[
        int | None, typer.Option("--max-sessions", help="Use at most this many machines at once.")
    ] = None,
    task_retries: Annotated[
        int | None,
        typer.Option("--task-retries", help="How often a failed task is retried. [default: 2]"),
    ] = None,
    max_task_runtime: Annotated[
        int | None, typer.Option("--max-task-runtime", metavar="SECONDS", help="Stop an attempt after this.")
    ] = None,
    depends_on: Annotated[
        list[str] | None, typer.Option("--depends-on", metavar="ID", help="Wait for this job; repeatable.")
    ] = None,
    on_missing_files: Annotated[
        str | None,
        typer.Option("--on-missing-files", help="If a file is missing: warn, hold or fail. [default: warn]"),
    ] = None,
    on_blocked_scripts: Annotated[
        str | None,
        typer.Option(
            "--on-blocked-scripts", help="If scripts are not run: hold, warn or fail. [default: hold]"
        ),
    ] = None,
    addon: Annotated[
        list[Path] | None,
        typer.Option("--addon", metavar="ZIP", help="Add-on or extension to enable; repeatable."),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option("--notify", metavar="EMAIL", help="Send mail when the job ends or holds; repeatable."),
    ] = None,
    notify_on: Annotated[
        list[str] | None,
        typer.Option(
            "--notify-on",
            metavar="STATE",
            help="success, failed, cancelled or holding; repeatable. Default: all but cancelled.",
        ),
    ] = None,
    no_trace: Annotated[
        bool, typer.Option("--no-trace", help="Send only SCENE and FILES, without the scene's dependencies.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the job's id only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the job as it would be; neither send nor submit it.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Upload a scene with all the files it needs, and submit it as a job.

    framefarm submit shot.blend --frames 1-240 --chunk 4 --scouts fml:3

    framefarm submit shot.blend textures/ --instance local-2 --on-demand --watch
    """
    with command(as_json) as out, client_of(url) as client:
        out.names = OPTIONS
        scene_path = Path(os.path.abspath(scene))
        facts = scene_process.read_scene(scene_path)
        facts.check_names(scene_name, camera, view_layer or (), with_addons=bool(addon))
        addons = dependencies.expand(addon or [])
        variables = pairs(env or [], "--env")
        paths, missing, doubts = _inputs(scene_path, files or [], addons, trace=not no_trace)
        if (config := Path(os.path.abspath(variables.get("OCIO", "")))).is_file():
            variables["OCIO"] = str(config)
            colours = dependencies.of_colour_config(config)
            paths, missing = list(dict.fromkeys([*paths, *colours.files])), (*missing, *colours.missing)
        elif "OCIO" in variables:
            missing = (*missing, MissingFile(str(config), "the environment variable OCIO"))
        elif own := os.environ.get("OCIO"):
            out.warn(f"OCIO is set here and not for the job. If the scene needs it: --env OCIO={clean(own)}")
        _warn_of_missing(out, missing)
        _warn_of_doubts(out, doubts)
        packages = list(client.pages("/api/packages"))
        package = blender or _package(packages, facts)
        unfit = fitness.check(
            scene_path,
            facts,
            scene_name,
            package,
            fitness.offers_of(packages),
            engine_chosen=bool(engine),
            brings_code=bool(addons),
        )
        for message in unfit:
            out.warn(message)
        chosen = _instance(client, instance, preemptible)
        payload: dict[str, Any] = {
            "job_title": title or clean(scene_path.stem)[:MAX_TITLE],
            "project": project,
            "instance_type": chosen["id"],
            "preemptible": _preemptible(chosen, preemptible),
            "chunk_size": chunk,
            "frame_range": facts.frame_range(scene_name, frames or None),
            "scout_frames": scouts,
            "blender_version": package,
            "render_software": engine,
            "output_path": output or f"{as_folder(project)}/{as_folder(scene_path.stem)}",
            "upload_paths": [str(path) for path in paths],
            "environment_variables": variables,
            "scene_path": str(scene_path),
            "metadata": pairs(metadata or [], "--metadata"),
            "hold": hold,
            **_given(
                preemptible_retries=preemptible_retries,
                priority=priority,
                max_sessions=max_sessions,
                task_retries=task_retries,
                max_task_runtime_seconds=max_task_runtime,
                depends_on=depends_on,
                scene=scene_name,
                camera=camera,
                view_layers=view_layer,
                resolution_percentage=resolution_percentage,
                samples=samples,
                on_missing_files=on_missing_files,
                on_blocked_scripts=on_blocked_scripts,
                addons=[str(path) for path in addons] or None,
                output_name=output_name,
                notify=_notify(notify, notify_on),
            ),
        }
        hashed = _hash(out, paths)
        payload["upload_md5s"] = {file.path: file.md5 for file in hashed}
        payload["upload_sha256s"] = {file.path: file.sha256 for file in hashed}
        local = {
            "missing_on_disk": [m.path for m in missing],
            "doubtful_files": [{"path": d.path, "why": d.why} for d in doubts],
            "blender_warnings": unfit,
        }
        answer = jobs.dry_run(client, payload)  # so that a refusal comes before any file is sent
        if dry_run:
            if as_json:
                out.document({**answer, **local, "payload": payload})
            else:
                _show_dry_run(out, answer, payload)
            return
        sent = _send(out, client, hashed)
        job = jobs.submit(client, payload)
        code = ExitCode.OK
        if quiet and not as_json:
            out.print(clean(job["id"]))
        else:
            _show(out, job, chosen, watching=watch)
        for warning in job.get("warnings") or []:
            out.warn(warning["message"])
        if watch:
            job, code = follow(out, client, job["id"])
        if as_json:
            out.document({**job, **local, "sent": sent})
        raise typer.Exit(code)


def _inputs(
    scene: Path, files: list[Path], addons: list[Path], *, trace: bool
) -> tuple[list[Path], tuple[MissingFile, ...], list[Doubt]]:
    """All files to send, the scene first; files that the scene refers to and that do not exist; doubts."""
    traced = scene_process.find(scene) if trace else dependencies.Dependencies((scene,), ())
    doubts = list(traced.doubts)
    given = dependencies.expand(files, doubts)
    doubts += dependencies.doubts_of(set(given) - set(traced.files))
    paths = list(dict.fromkeys([*traced.files, *given, *addons]))
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise LocalProblem(f"The name of {str(path)!r} is not valid UTF-8. Rename the file.") from None
    return paths, traced.missing, doubts


def _warn_of_missing(out: Output, missing: tuple[MissingFile, ...]) -> None:
    for file in missing[:SHOWN_MISSING]:
        out.warn(f"{file.path} does not exist; {file.wanted_by} wants it.")
    if len(missing) > SHOWN_MISSING:
        out.warn(f"… and {len(missing) - SHOWN_MISSING} more files do not exist.")


def _warn_of_doubts(out: Output, doubts: list[Doubt]) -> None:
    for doubt in doubts[:SHOWN_MISSING]:
        out.warn(f"{doubt.path} {doubt.why}.")
    if len(doubts) > SHOWN_MISSING:
        out.warn(f"… and {len(doubts) - SHOWN_MISSING} more files that are not what they seem.")


def _instance(client: Client, instance: str | None, preemptible: bool | None) -> Mapping[str, Any]:
    """The given instance type, or the cheapest one. The farm checks whether it exists and may be used."""
    offered = [i for i in client.pages("/api/enterprise/instances") if i.get("enabled", True)]
    if instance is not None:
        return next((i for i in offered if i["id"] == instance), {"id": instance})
    if preemptible:
        offered = [i for i in offered if i.get("preemptible_price_per_hour")] or offered
    if not offered:
        raise LocalProblem("The farm offers no instance type. Ask its operator to enable one.")
    return min(offered, key=lambda i: _price_micros(i, _preemptible(i, preemptible)))


def _preemptible(instance: Mapping[str, Any], given: bool | None) -> bool:
    if given is not None:
        return given
    return "price_per_hour" not in instance or bool(instance.get("preemptible_price_per_hour"))


def _price(instance: Mapping[str, Any], preemptible: bool) -> Mapping[str, Any] | None:
    price: Mapping[str, Any] | None = instance.get(
        "preemptible_price_per_hour" if preemptible else "price_per_hour"
    )
    return price or instance.get("price_per_hour")


def _price_micros(instance: Mapping[str, Any], preemptible: bool) -> int:
    price = _price(instance, preemptible)
    return int(price["amount_micros"]) if price else 0


def _package(packages: Sequence[Mapping[str, Any]], facts: SceneFacts) -> str:
    """Id of the Blender that saved the scene, else the farm's default, else the oldest that can open it."""
    offered: dict[tuple[int, ...], Mapping[str, Any]] = {}
    # The archive of a series is its default only where it has no other package.
    for package in sorted(
        packages, key=lambda package: str(package["id"]).endswith("-archive"), reverse=True
    ):
        if package.get("status", "available") == "available":
            numbers = re.findall(r"\d+", str(package["id"]))[:2]
            offered[tuple(int(n) for n in numbers)] = package
    default = next((v for v, p in offered.items() if p.get("default")), None)
    if not offered:
        raise LocalProblem(
            "The farm has no Blender installed. Ask its operator: framefarm blender install 4.2"
        )
    if facts.version in offered:
        return str(offered[facts.version]["id"])
    if default is not None and default >= facts.version:
        return str(offered[default]["id"])
    newer = [version for version in offered if version >= facts.version]
    return str(offered[min(newer) if newer else default or max(offered)]["id"])


def as_folder(name: str) -> str:
    """A name as one folder of an output path: characters that are not allowed there become `_`."""
    kept = re.sub(r"[\x00-\x1f\x7f/\\:?#]+", "_", name).strip(" .")
    return kept or "render"


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _notify(addresses: list[str] | None, states: list[str] | None) -> dict[str, list[str]] | None:
    if states and not addresses:
        raise LocalProblem("--notify-on needs an address, too: --notify EMAIL.")
    return _given(email=addresses, on=states or None) if addresses else None


def _hash(out: Output, paths: list[Path]) -> list[hashing.HashedFile]:
    cache = hashing.HashCache()
    total = sum(path.stat().st_size for path in paths if path.exists())
    try:
        with out.bytes_bar("Reading", total) as bar:
            return hashing.hash_files(paths, cache=cache, on_bytes=lambda n: bar.advance(bar.task_ids[0], n))
    finally:
        cache.close()


def _send(out: Output, client: Client, hashed: list[hashing.HashedFile]) -> dict[str, int]:
    """Upload the files that the farm lacks. Returns the numbers of files and of bytes that were sent."""
    lacking = upload.missing(client, hashed)
    total = sum(file.size for file in lacking)
    if lacking:
        with out.bytes_bar("Uploading", total) as bar:
            upload.upload(client, lacking, on_bytes=lambda n: bar.advance(bar.task_ids[0], n))
        out.info(f"Uploaded {len(lacking)} of {plural(len(hashed), 'file')} ({size(total)}).")
    else:
        out.info(f"Nothing to upload: the farm has {plural(len(hashed), 'file')} already.")
    return {"files": len(lacking), "bytes": total}


def _show(out: Output, job: jobs.Job, instance: Mapping[str, Any], *, watching: bool) -> None:
    out.print(f"{clean(job['id'])}  {clean(job['job_title'])}  {clean(job['status'])}", style="bold")
    frames, tasks = jobs.count(job, "frames"), jobs.count(job, "tasks")
    if frames and tasks:
        out.print(f"  {plural(frames[1], 'frame')} in {plural(tasks[1], 'task')}" + _scouts(job))
    else:
        out.print(f"  frames {clean(job['frame_range'])}, counted when the farm has read the scene")
    preemptible = bool(job["preemptible"])
    price = _price(instance, preemptible)
    rate = f", {money(price)} an hour" if price else ""
    market = "preemptible" if preemptible else "on demand"
    out.print(f"  on {clean(job['instance_type'])} ({market}{rate}) with {clean(job['blender_version'])}")
    out.print(f"  into {clean(job['output_path'])}")
    if job.get("missing_paths"):
        out.print(f"  starts when {plural(len(job['missing_paths']), 'missing file')} arrived")
    if not watching:
        out.print(f"Follow it:  framefarm watch {clean(job['id'])}")


def _scouts(job: jobs.Job) -> str:
    return f"; scouts {clean(job['scout_frames'])} first, then it holds" if job.get("scout_frames") else ""


def _show_dry_run(out: Output, answer: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
    frames, tasks = answer.get("frames"), answer.get("tasks")
    size_text = "counted when the scene is read" if frames is None else f"{plural(frames, 'frame')}"
    out.print(
        f"{clean(payload['job_title'])} would be submitted: {size_text}"
        + (f" in {plural(tasks, 'task')}" if tasks else "")
    )
    out.print(f"  on {payload['instance_type']} at {money(answer['price_per_hour'])} an hour")
    out.print(f"  with {payload['blender_version']}, into {clean(payload['output_path'])}")
    out.print(f"  {len(answer['missing_paths'])} of {plural(len(payload['upload_paths']), 'file')} to upload")
    for warning in answer.get("warnings") or []:
        out.warn(warning["message"])
