"""Submitting jobs, and people's actions on them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from api_client import SCENE, ApiClient

from framefarm.server.jobs.tables import job_state, jobs, tasks
from framefarm.server.sessions.tables import frames
from framefarm.server.tenancy import farmwide


def fields(answer: Any) -> set[str]:
    assert answer.status_code == 422, answer.text
    return {e["field"] for e in answer.json()["errors"]}


# --------------------------------------------------------------------------------- submitting


def test_all_bad_fields_are_reported_together(site: ApiClient) -> None:
    bad = site.payload(
        project="nope", instance_type="nope", blender_version="9.9", frame_range="1-", output_path="gs://no/x"
    )
    answer = site.ask("POST", "/api/jobs", json=bad)
    assert fields(answer) == {"project", "instance_type", "blender_version", "frame_range", "output_path"}
    assert site.rows(jobs) == []


def test_unknown_fields_are_refused(site: ApiClient) -> None:
    answer = site.ask("POST", "/api/jobs", json=site.payload(chunksize=3))
    assert fields(answer) == {"chunksize"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job_title", ""),
        ("chunk_size", 0),
        ("chunk_size", "1"),
        ("priority", 101),
        ("preemptible", "yes"),
        ("render_software", "luxcore"),
        ("upload_paths", []),
        ("upload_paths", ["relative.blend"]),
        ("upload_paths", ["/film/notes.txt"]),
        ("upload_paths", ["C:\\film\\shot.blend", "/c/film/a.png"]),
        ("scene_path", "/film/other.blend"),
        ("scout_frames", "20"),
        ("frame_range", "1-999999999999"),
        ("environment_variables", {"LD_PRELOAD": "x"}),
        ("depends_on", ["job_nope"]),
        ("output_path", "../out"),
        ("output_path", "/etc"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(site: ApiClient, name: str, value: Any) -> None:
    found = fields(site.ask("POST", "/api/jobs", json=site.payload(**{name: value})))
    assert {f.split(".")[0].split("[")[0] for f in found} == {name}


def test_an_unknown_output_path_is_refused_with_the_allowed_ones(site: ApiClient) -> None:
    answer = site.ask("POST", "/api/jobs", json=site.payload(output_path="gs://others/x"))
    (error,) = answer.json()["errors"]
    assert (error["field"], error["given"]) == ("output_path", "gs://others/x")
    assert "gs://renders" in error["message"]


def test_an_archived_project_takes_no_jobs(site: ApiClient) -> None:
    project = site.ask("POST", "/api/projects", json={"name": "old"}).json()
    changed = site.ask("PATCH", f"/api/projects/{project['id']}", json={"status": "archived"})
    assert changed.status_code == 200, changed.text
    answer = site.ask("POST", "/api/jobs", json=site.payload(project="old"))
    assert answer.status_code == 409
    assert "archived" in answer.json()["detail"]


def test_a_job_waits_for_files_that_are_not_there_yet(site: ApiClient) -> None:
    job = site.ask("POST", "/api/jobs", json=site.payload()).json()
    assert job["status"] == "syncing"
    site.upload()
    assert site.status(job["id"]) == "pending"


def test_a_dry_run_returns_counts_and_stores_nothing(site: ApiClient) -> None:
    answer = site.ask("POST", "/api/jobs?dry_run=true", json=site.payload(chunk_size=2, scout_frames="fml:3"))
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert (plan["frames"], plan["tasks"], plan["scouts"]) == (9, 6, 3)
    assert plan["missing_paths"] == [SCENE]
    assert site.rows(jobs) == []


def test_the_same_idempotency_key_submits_once(site: ApiClient) -> None:
    site.upload()
    key = {"Idempotency-Key": "k1"}
    payload = site.payload()
    first = site.ask("POST", "/api/jobs", json=payload, headers=key)
    again = site.ask("POST", "/api/jobs", json=payload, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert len(site.rows(jobs)) == 1
    other = site.ask("POST", "/api/jobs", json=payload | {"job_title": "Another"}, headers=key)
    assert other.status_code == 409


# ----------------------------------------------------------------------------- scouts, chunks


def test_scouts_render_first_then_the_job_holds_until_a_person_unholds_it(site: ApiClient) -> None:
    job = site.submit(scout_frames="fml:3")["id"]
    assert site.render(job) == [1, 5, 9]
    seen = site.get(f"/api/jobs/{job}")
    assert (seen["status"], seen["hold_reasons"]) == ("holding", ["scouts"])
    assert site.ask("PATCH", f"/api/jobs/{job}", json={"action": "unhold"}).status_code == 200
    assert site.render(job) == [2, 3, 4, 6, 7, 8]
    assert site.status(job) == "success"
    assert sorted(f["frame"] for f in site.rows(frames)) == list(range(1, 10))


def test_a_chunk_takes_its_frames_in_the_order_asked_for(site: ApiClient) -> None:
    job = site.submit(frame_range="1-20x3", chunk_size=3)["id"]
    runner = site.runner(job)
    assert [t.frames for t in runner.sync().tasks] == [[1, 4, 7]]
    assert runner.render_all() == [1, 4, 7, 10, 13, 16, 19]
    assert len(site.rows(tasks)) == 3


def test_a_job_waits_for_the_jobs_it_depends_on(site: ApiClient) -> None:
    first = site.submit(frame_range="1")["id"]
    second = site.submit(frame_range="2", depends_on=[first])["id"]
    assert site.render(second) == []
    assert site.render(first) == [1]
    assert site.render(second) == [2]


def test_a_job_holds_when_one_it_depends_on_is_cancelled(site: ApiClient) -> None:
    first = site.submit(frame_range="1")["id"]
    second = site.submit(frame_range="2", depends_on=[first])["id"]
    site.ask("PATCH", f"/api/jobs/{first}", json={"action": "cancel"})
    seen = site.get(f"/api/jobs/{second}")
    assert (seen["status"], seen["hold_reasons"]) == ("holding", ["dependency"])
    site.ask("PATCH", f"/api/jobs/{second}", json={"action": "unhold"})
    assert site.render(second) == [2]


def test_a_hold_for_a_failed_job_ends_when_all_that_failed_are_retried_and_succeed(site: ApiClient) -> None:
    first, second = (site.submit(frame_range="1", task_retries=0)["id"] for _ in range(2))
    third = site.submit(frame_range="2", depends_on=[first, second])["id"]
    for job in (first, second):
        runner = site.runner(job)
        (task,) = runner.sync().tasks
        runner.report(runner.started(task), runner.ended(task, "failed"))
        runner.end()
        assert site.status(job) == "failed"
    assert site.get(f"/api/jobs/{third}")["hold_reasons"] == ["dependency"]
    for job, then in ((first, "holding"), (second, "pending")):
        assert site.ask("POST", f"/api/jobs/{job}/retry").status_code == 200
        assert site.get(f"/api/jobs/{third}")["hold_reasons"] == ["dependency"]
        assert site.render(job) == [1]
        assert site.status(third) == then
    assert site.render(third) == [2]


# ------------------------------------------------------------------------------------ actions


def test_a_held_job_assigns_no_tasks_until_unheld(site: ApiClient) -> None:
    job = site.submit(hold=True)["id"]
    assert site.status(job) == "holding"
    assert site.render(job) == []
    site.ask("PATCH", f"/api/jobs/{job}", json={"status": "pending"})
    assert len(site.render(job)) == 9


def test_cancelling_twice_is_no_error_and_a_cancelled_job_can_be_deleted(site: ApiClient) -> None:
    job = site.submit()["id"]
    for _ in range(2):
        answer = site.ask("PATCH", f"/api/jobs/{job}", json={"status": "cancelled"})
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert site.ask("PATCH", f"/api/jobs/{job}", json={"action": "unhold"}).status_code == 409
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204
    assert site.ask("GET", f"/api/jobs/{job}").status_code == 404


def test_a_deleted_jobs_files_are_listed_and_fetched_until_they_are_forgotten(site: ApiClient) -> None:
    job = site.submit(frame_range="1-2")["id"]
    site.render(job)
    before = site.get(f"/api/jobs/{job}/files")["data"]
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204
    after = site.get(f"/api/jobs/{job}/files")["data"]
    assert [f["sha256"] for f in after] == [f["sha256"] for f in before] and len(after) == 2
    assert all(f["download_path"] == f["path"] for f in after)
    for path in ("", "/frames", "/tasks", "/attempts"):
        assert site.ask("GET", f"/api/jobs/{job}{path}").status_code == 404
    key = jobs.c.id == job
    site.context.db.write_now(
        lambda tx: tx.conn.execute(farmwide(jobs.update()).where(key).values(emptied_ms=tx.now_ms))
    )
    assert site.ask("GET", f"/api/jobs/{job}/files").status_code == 404


def test_a_running_job_is_cancelling_until_its_machines_have_stopped(site: ApiClient) -> None:
    job = site.submit()["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task))
    answer = site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"})
    assert answer.json()["status"] == "cancelling"
    assert runner.sync().cancel
    runner.report(runner.ended(task, "cancelled"))
    assert site.status(job) == "cancelled"


def test_a_running_job_cannot_be_deleted(site: ApiClient) -> None:
    job = site.submit()["id"]
    runner = site.runner(job)
    runner.report(runner.started(runner.sync().tasks[0]))
    answer = site.ask("DELETE", f"/api/jobs/{job}")
    assert answer.status_code == 409
    assert answer.json()["state"] == "running"


def test_chosen_frames_rendered_again_get_a_next_revision(site: ApiClient) -> None:
    job = site.submit(frame_range="1-6", chunk_size=3)["id"]
    site.render(job)
    answer = site.ask("POST", f"/api/jobs/{job}/retry", json={"frames": "2,5"})
    assert answer.status_code == 200, answer.text
    assert site.status(job) in {"pending", "running"}
    assert site.render(job) == [2, 5]
    assert site.status(job) == "success"
    found = sorted((f["frame"], f["revision"]) for f in site.rows(frames))
    assert found == [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (5, 0), (5, 1), (6, 0)]
    assert site.row(job_state)["frames_done"] == 6


def test_retrying_a_done_frame_of_a_failed_task_also_renders_its_missing_frames(site: ApiClient) -> None:
    """A job is no success while some of its frames were never rendered."""
    job = site.submit(frame_range="1-4", chunk_size=4, task_retries=0)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    saved = [runner.saved(task, frame) for frame in (1, 2)]
    runner.report(runner.started(task), *saved, runner.ended(task, "failed", message="No memory."))
    assert site.ask("POST", f"/api/jobs/{job}/retry", json={"frames": "2"}).status_code == 200
    assert runner.render_all() == [2, 3, 4]
    site.publish()
    answer = site.get(f"/api/jobs/{job}")
    assert (answer["status"], answer["frames"]) == ("success", {"total": 4, "done": 4, "left": 0})
    found = sorted((f["frame"], f["revision"]) for f in site.rows(frames))
    assert found == [(1, 0), (2, 0), (2, 1), (3, 1), (4, 1)]


def test_retried_frames_are_rendered_with_those_that_were_never_done(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3, task_retries=0)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.saved(task, 1), runner.ended(task, "failed", message="No."))
    assert site.ask("POST", f"/api/jobs/{job}/retry", json={"frames": "1-2"}).status_code == 200
    assert runner.render_all() == [1, 2, 3]
    assert site.row(job_state)["frames_done"] == 3


def test_a_failed_retry_is_retried_with_the_frames_it_still_lacks(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3, task_retries=0)["id"]
    site.render(job)
    assert site.ask("POST", f"/api/jobs/{job}/retry", json={"frames": "1-2"}).status_code == 200
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.saved(task, 1), runner.ended(task, "failed", message="No."))
    assert site.ask("POST", f"/api/jobs/{job}/retry", json={"frames": "3"}).status_code == 200
    assert runner.render_all() == [2, 3]
    assert site.row(job_state)["frames_done"] == 3


def test_frames_that_are_not_the_jobs_cannot_be_retried(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3")["id"]
    site.render(job)
    assert fields(site.ask("POST", f"/api/jobs/{job}/retry", json={"frames": "7"})) == {"frames"}


def test_failed_tasks_can_be_retried(site: ApiClient) -> None:
    job = site.submit(frame_range="1", task_retries=0)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.ended(task, "failed", message="No camera."))
    assert site.status(job) == "failed"
    assert site.ask("POST", f"/api/jobs/{job}/retry", json={}).status_code == 200
    assert runner.render_all() == [1]
    site.publish()
    assert site.status(job) == "success"


# ------------------------------------------------------------------------------ other accounts


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"action": "cancel"}),
        ("DELETE", "", None),
        ("POST", "/retry", {}),
        ("GET", "/tasks", None),
        ("GET", "/tasks/0", None),
        ("POST", "/tasks/0/retry", None),
        ("GET", "/frames", None),
        ("GET", "/files", None),
        ("GET", "/attempts", None),
        ("GET", "/tasks/0/log", None),
    ],
)
def test_another_accounts_job_is_not_found(
    site: ApiClient, other: ApiClient, method: str, path: str, body: Any
) -> None:
    job = site.submit(frame_range="1")["id"]
    site.render(job)
    answer = other.ask(method, f"/api/jobs/{job}{path}", json=body)
    assert answer.status_code == 404
    assert other.get("/api/jobs")["data"] == []
    assert site.row(job_state, sa.true())["status"] == "success"


def test_another_accounts_job_cannot_be_waited_for(site: ApiClient, other: ApiClient) -> None:
    job = site.submit(frame_range="1")["id"]
    answer = other.ask("POST", "/api/jobs", json=other.payload(depends_on=[job]))
    assert fields(answer) == {"depends_on"}
