"""Reaction of a job to missing files and blocked scripts: `on_missing_files`, `on_blocked_scripts`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient

from framefarm.node import blender_installs
from framefarm.protocol import node as msg
from framefarm.server.jobs.failures import Unrenderable
from framefarm.server.jobs.tables import jobs
from framefarm.server.submission import scene_reading

SCRIPT = Path(__file__).parents[1] / "node" / "make_path_scenes.py"
BLOCKED = msg.NodeWarning(code="blocked_scripts", message="Some scripts were not run.", subject="Driver 'x'")
UNBAKED = msg.NodeWarning(code="simulation_must_be_baked", message="It must be baked.", subject="Flag: Cloth")
LACKING = msg.NodeWarning(code="missing_file", message="A file is missing.", subject="C:/film/tex/wood.png")


def opened(*warnings: msg.NodeWarning) -> msg.BlenderOpened:
    return msg.BlenderOpened(blender="4.2.23", load_seconds=1.0, warnings=list(warnings))


def job(site: ApiClient, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = site.get(f"/api/jobs/{job_id}")
    return answer


def test_blocked_scripts_hold_the_job_until_a_person_unholds_it(site: ApiClient) -> None:
    job_id = site.submit()["id"]
    first, second = site.runner(job_id), site.runner(job_id)
    [task] = first.sync().tasks
    [other] = second.sync().tasks
    version = first.sync().version
    answer = first.report(first.started(task), opened(BLOCKED))
    assert answer.desired.version > version
    shown = job(site, job_id)
    assert (shown["status"], shown["hold_reasons"]) == ("holding", ["rule"])
    assert [w["code"] for w in shown["warnings"]] == ["blocked_scripts"]
    assert second.sync().tasks == []
    second.report(msg.TaskReleased(attempt=other.attempt))
    # The frame in work ends, and is kept.
    first.report(first.saved(task, task.frames[0]), first.ended(task))
    assert job(site, job_id)["frames"]["done"] == 1
    assert site.ask("PATCH", f"/api/jobs/{job_id}", json={"action": "unhold"}).status_code == 200
    second.report(opened(BLOCKED))
    assert job(site, job_id)["hold_reasons"] == []
    assert second.render_all() == list(range(2, 10))
    site.publish()
    assert site.status(job_id) == "success"


def test_a_simulation_that_blender_finds_holds_the_job_until_a_person_lifts_it(site: ApiClient) -> None:
    job_id = site.submit()["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    runner.report(runner.started(task), opened(UNBAKED))
    assert job(site, job_id)["hold_reasons"] == ["rule"]
    assert site.ask("PATCH", f"/api/jobs/{job_id}", json={"action": "unhold"}).status_code == 200
    runner.report(opened(UNBAKED))
    assert job(site, job_id)["hold_reasons"] == []


@pytest.mark.parametrize(
    ("fields", "warning"),
    [({"on_blocked_scripts": "warn"}, BLOCKED), ({}, LACKING), ({"on_missing_files": "warn"}, LACKING)],
)
def test_warnings_that_are_accepted_do_not_hold_the_job(
    site: ApiClient, fields: dict[str, str], warning: msg.NodeWarning
) -> None:
    job_id = site.submit(**fields)["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    runner.report(runner.started(task), opened(warning))
    shown = job(site, job_id)
    assert (shown["status"], shown["hold_reasons"]) == ("running", [])
    assert [w["code"] for w in shown["warnings"]] == [warning.code]


def failing(site: ApiClient, warning: msg.NodeWarning, **fields: str) -> dict[str, Any]:
    """A job that this warning failed while two sessions rendered it."""
    job_id = site.submit(**fields)["id"]
    first, second = site.runner(job_id), site.runner(job_id)
    [task] = first.sync().tasks
    [other] = second.sync().tasks
    second.report(second.started(other))
    answer = first.report(first.started(task), opened(warning))
    assert answer.desired.cancel and second.sync().cancel
    assert site.status(job_id) == "running"
    first.report(first.ended(task, "cancelled", ms=5), msg.SessionEnded(reason="cancelled"))
    assert site.status(job_id) == "running"
    second.report(second.ended(other, "cancelled", ms=5), msg.SessionEnded(reason="cancelled"))
    shown = job(site, job_id)
    assert (shown["status"], shown["tasks"]["cancelled"], shown["tasks"]["failed"]) == ("failed", 9, 0)
    assert site.ask("POST", f"/api/jobs/{job_id}/retry", json={}).status_code == 409
    return shown


def test_scripts_blocked_fails_the_whole_job_at_once(site: ApiClient) -> None:
    shown = failing(site, BLOCKED, on_blocked_scripts="fail")
    assert shown["cause"] == "scripts_blocked"
    assert "operator" in shown["message"]


def test_missing_files_that_blender_finds_out_about_fail_the_whole_job(site: ApiClient) -> None:
    shown = failing(site, LACKING, on_missing_files="fail")
    assert shown["cause"] == "missing_files"
    assert LACKING.subject in shown["message"]


def test_a_failed_task_of_a_job_that_failed_as_a_whole_cannot_be_retried(site: ApiClient) -> None:
    job_id = site.submit(on_blocked_scripts="fail", task_retries=0)["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    runner.report(runner.started(task), runner.ended(task, "failed", message="No memory."))
    runner.report(opened(BLOCKED), msg.SessionEnded(reason="cancelled"))
    assert site.status(job_id) == "failed"
    refused = [
        site.ask("POST", f"/api/jobs/{job_id}/{path}") for path in ("retry", f"tasks/{task.number}/retry")
    ]
    assert [answer.status_code for answer in refused] == [409, 409]
    assert refused[0].json()["detail"] == refused[1].json()["detail"]
    assert site.get(f"/api/jobs/{job_id}/tasks/{task.number}")["status"] == "failed"


def test_missing_files_that_blender_finds_out_about_hold_once(site: ApiClient) -> None:
    job_id = site.submit(on_missing_files="hold")["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    runner.report(runner.started(task), opened(LACKING))
    assert job(site, job_id)["hold_reasons"] == ["rule"]
    site.ask("PATCH", f"/api/jobs/{job_id}", json={"action": "unhold"})
    runner.report(opened(LACKING, msg.NodeWarning(code="missing_file", message="One more.", subject="/x")))
    shown = job(site, job_id)
    assert (shown["hold_reasons"], len(shown["warnings"])) == ([], 2)


def looked_for(name: str, user: str = "") -> msg.NodeWarning:
    return msg.NodeWarning(
        code="missing_file", message=f"{name} is missing.", subject=name, wanted_by=user, found_by="rendered"
    )


def test_files_missed_while_a_frame_renders_hold_once_more_and_never_again(site: ApiClient) -> None:
    job_id = site.submit(on_missing_files="hold")["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    runner.report(runner.started(task), opened(LACKING))
    site.ask("PATCH", f"/api/jobs/{job_id}", json={"action": "unhold"})
    frame = runner.saved(task, task.frames[0])
    frame.warnings = [looked_for("C:/film/lamp.ies")]
    runner.report(frame)
    assert job(site, job_id)["hold_reasons"] == ["rule"]
    [shown] = [f for f in site.get(f"/api/jobs/{job_id}/frames")["data"] if f["warnings"]]
    assert (shown["frame"], shown["warnings"][0]["subject"]) == (task.frames[0], "C:/film/lamp.ies")
    site.ask("PATCH", f"/api/jobs/{job_id}", json={"action": "unhold"})
    [task] = [t for t in runner.sync().tasks if t.attempt != task.attempt][:1]
    frame = runner.saved(task, task.frames[0])
    frame.warnings = [looked_for("C:/film/other.ies")]
    runner.report(runner.started(task), frame)
    assert job(site, job_id)["hold_reasons"] == []


def test_a_file_missed_while_a_frame_renders_fails_the_job(site: ApiClient) -> None:
    job_id = site.submit(on_missing_files="fail")["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    frame = runner.saved(task, task.frames[0])
    frame.warnings = [looked_for("C:/film/lamp.ies")]
    answer = runner.report(runner.started(task), frame)
    assert answer.desired.cancel
    runner.report(runner.ended(task), msg.SessionEnded(reason="cancelled"))
    shown = job(site, job_id)
    assert (shown["status"], shown["cause"]) == ("failed", "missing_files")
    assert "C:/film/lamp.ies" in shown["message"]


def test_the_list_of_missing_files_has_each_once_with_its_first_time_and_its_user(site: ApiClient) -> None:
    job_id = site.submit()["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    told = msg.NodeWarning(
        code="missing_file", message="It is missing.", subject="/a/wood.png", found_by="opened"
    )
    runner.report(runner.started(task), opened(told))
    first = job(site, job_id)["missing_files"]
    frame = runner.saved(task, task.frames[0])
    frame.warnings = [looked_for("/a/wood.png", "image wood.png"), looked_for("/a/lamp.ies")]
    runner.report(frame)
    shown = job(site, job_id)
    listed = [(f["path"], f["wanted_by"], f["found_by"]) for f in shown["missing_files"]]
    assert listed == [("/a/wood.png", "image wood.png", "opened"), ("/a/lamp.ies", "", "rendered")]
    assert shown["missing_files"][0]["since"] == first[0]["since"]
    assert "Upload it" in shown["missing_files"][1]["remedy"]
    assert [set(w) for w in shown["warnings"]] == [{"code", "message", "subject"}] * 2


def test_a_scene_full_of_warnings_does_not_hide_that_scripts_were_blocked(site: ApiClient) -> None:
    job_id = site.submit()["id"]
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    many = [msg.NodeWarning(code="script_error", message="An error.", subject=str(n)) for n in range(300)]
    runner.report(runner.started(task), opened(*many, BLOCKED))
    shown = job(site, job_id)
    assert (shown["hold_reasons"], len(shown["warnings"])) == (["rule"], 201)


# ------------------------------------------------------------- before any machine, with a real scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    blender = next(b for b in blender_installs.installed() if b.id == "blender-4-2")
    folder = tmp_path_factory.mktemp("paths")
    subprocess.run([blender.path, str(SCRIPT), str(folder)], check=True, capture_output=True, timeout=120)
    return folder


def read(site: ApiClient, made: Path, names: list[str], **more: Any) -> str:
    """A job of these files, below C:/proj, as the farm's reader leaves it."""
    paths = {f"C:/proj/{name}": (made / name).read_bytes() for name in names}
    for path, data in paths.items():
        assert site.upload(path, data).status_code == 200
    answer = site.ask("POST", "/api/jobs", json=site.payload(upload_paths=list(paths), **more))
    assert answer.status_code == 201, answer.text
    job = unread_job(site, answer.json()["id"])
    try:
        record = scene_reading.read_scene(site.context, job)
    except Unrenderable as error:
        site.context.db.write_now(scene_reading.fail_job, job, error)
    else:
        site.context.db.write_now(scene_reading.record_scene, job, record)
    return job.id


def unread_job(site: ApiClient, job_id: str) -> scene_reading.UnreadJob:
    row = site.row(jobs, jobs.c.id == job_id)
    return scene_reading.UnreadJob(**row, release="4.2.23", lacks=None, allow_scripts=False)


@pytest.mark.blender
def test_missing_files_fail_the_job_before_any_machine_starts(site: ApiClient, made: Path) -> None:
    shown = job(site, read(site, made, ["drive_absolute.blend"], on_missing_files="fail"))
    assert (shown["status"], shown["cause"]) == ("failed", "missing_files")
    assert "C:/proj/tex/red.png" in shown["message"]
    [listed] = shown["missing_files"]
    assert (listed["path"], listed["wanted_by"]) == ("C:/proj/tex/red.png", "image red.png")


@pytest.mark.blender
def test_missing_file_warns_or_holds_before_any_machine_starts(site: ApiClient, made: Path) -> None:
    warned = job(site, read(site, made, ["drive_absolute.blend"]))
    assert (warned["status"], warned["hold_reasons"]) == ("pending", [])
    [warning] = warned["warnings"]
    assert (warning["code"], warning["subject"]) == ("missing_file", "C:/proj/tex/red.png")
    assert "image red.png" in warning["message"]
    [listed] = warned["missing_files"]
    assert (listed["path"], listed["wanted_by"]) == ("C:/proj/tex/red.png", "image red.png")
    assert (listed["found_by"], listed["since"]) == ("submit", warned["created_at"])
    job_id = read(site, made, ["drive_absolute.blend"], on_missing_files="hold")
    assert job(site, job_id)["hold_reasons"] == ["rule"]
    assert site.runner(job_id).sync().tasks == []
    site.ask("PATCH", f"/api/jobs/{job_id}", json={"action": "unhold"})
    runner = site.runner(job_id)
    [task] = runner.sync().tasks
    known = msg.NodeWarning(code="missing_file", message="As before.", subject="C:/proj/tex/red.png")
    runner.report(runner.started(task), opened(known))
    assert job(site, job_id)["hold_reasons"] == []


@pytest.mark.blender
def test_an_input_in_another_case_is_sent_under_both_names(site: ApiClient, made: Path) -> None:
    job_id = read(site, made, ["case.blend", "tex/blue.png"], on_missing_files="fail")
    shown = job(site, job_id)
    assert (shown["status"], shown["warnings"]) == ("pending", [])
    assert "aliases" not in shown["scene_info"]
    runner = site.runner(job_id)
    answer = site.ask(
        "GET",
        f"/node/v1/sessions/{runner.session}/inputs",
        headers={"Authorization": f"Bearer {runner.token}"},
    )
    sent = {i["path"]: i["sha256"] for i in answer.json()["inputs"]}
    assert set(sent) == {"C:/proj/case.blend", "C:/proj/tex/blue.png", "C:/proj/TEX/Blue.PNG"}
    assert sent["C:/proj/tex/blue.png"] == sent["C:/proj/TEX/Blue.PNG"]


@pytest.mark.blender
def test_a_colour_configuration_without_its_luts_is_warned_of(site: ApiClient, made: Path) -> None:
    config = b"search_path: luts\ncolorspaces:\n  - !<ColorSpace>\n    x: !<FileTransform> {src: a.spi1d}\n"
    site.upload("C:/ocio/config.ocio", config)
    row = read(site, made, ["relative.blend", "tex/blue.png"])
    assert job(site, row)["warnings"] == []
    paths = ["C:/proj/relative.blend", "C:/proj/tex/blue.png", "C:/ocio/config.ocio"]
    answer = site.ask(
        "POST",
        "/api/jobs",
        json=site.payload(upload_paths=paths, environment_variables={"OCIO": "C:\\ocio\\config.ocio"}),
    )
    [warning] = scene_reading.read_scene(site.context, unread_job(site, answer.json()["id"])).warnings
    assert warning["subject"] == "C:/ocio/luts/a.spi1d"
