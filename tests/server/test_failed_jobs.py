"""Failures that are the same for every task: they fail the whole job, and are paid once."""

from __future__ import annotations

import pytest
from api_client import ApiClient
from fake_runner import FakeRunner

from framefarm.protocol import node as msg

OPENED = msg.BlenderOpened(blender="4.2.23", load_seconds=1.0)


def fail(runner: FakeRunner, cause: str, *before: msg.Event, frame: int | None = None) -> msg.ReportReply:
    """The runner's next task begins and fails."""
    task = runner.sync().tasks[0]
    end = runner.ended(task, "failed", message="It failed.", cause=cause, frame=frame)
    return runner.report(runner.started(task), *before, end)


@pytest.mark.parametrize(
    "cause", ["no_camera", "unknown_engine", "cannot_open", "addon_failed", "newer_file"]
)
def test_a_scene_that_cannot_be_opened_fails_its_job_with_one_start(site: ApiClient, cause: str) -> None:
    job_id = site.submit()["id"]
    first, second = site.runner(job_id), site.runner(job_id)
    [other] = second.sync().tasks
    second.report(second.started(other))
    answer = fail(first, cause)
    assert answer.desired.cancel and second.sync().cancel
    second.report(second.ended(other, "cancelled", ms=5), msg.SessionEnded(reason="cancelled"))
    shown = site.get(f"/api/jobs/{job_id}")
    assert (shown["status"], shown["cause"]) == ("failed", cause)
    assert shown["message"] == "It failed. Every task would fail so: none of them is started."
    assert (shown["tasks"]["failed"], shown["tasks"]["cancelled"]) == (1, 8)
    tries = site.get(f"/api/jobs/{job_id}/attempts")["data"]
    assert [a["outcome"] for a in tries if a["cause"] == cause] == ["failed"]


def test_a_scene_that_crashes_blender_as_it_opens_is_tried_three_times_in_all(site: ApiClient) -> None:
    job_id = site.submit(task_retries=0)["id"]
    runner = site.runner(job_id)
    for _ in range(2):
        fail(runner, "crashed")
        assert site.status(job_id) == "running"
    assert fail(runner, "crashed").desired.cancel
    shown = site.get(f"/api/jobs/{job_id}")
    assert (shown["status"], shown["cause"], shown["tasks"]["failed"]) == ("failed", "crashed", 3)


@pytest.mark.parametrize("cause", ["crashed", "render_failed", "no_camera"])
def test_a_frame_that_fails_ends_no_other_task(site: ApiClient, cause: str) -> None:
    job_id = site.submit(task_retries=0)["id"]
    runner = site.runner(job_id)
    for frame in (1, 2, 3, 4):
        assert not fail(runner, cause, OPENED, frame=frame).desired.cancel
    assert len(runner.render_all()) == 5


def test_missing_graphics_are_found_out_three_times_at_most(site: ApiClient) -> None:
    job_id = site.submit(task_retries=0)["id"]
    runner = site.runner(job_id)
    for frame in (1, 2, 3):
        answer = fail(runner, "no_gl", OPENED, frame=frame)
    assert answer.desired.cancel and site.get(f"/api/jobs/{job_id}")["cause"] == "no_gl"


def test_a_failure_of_the_machine_or_farm_fails_no_job(site: ApiClient) -> None:
    job_id = site.submit(task_retries=0)["id"]
    runner = site.runner(job_id)
    for _ in range(4):
        assert not fail(runner, "blender_broken").desired.cancel
