"""Runners' calls: only an attempt that owns its task commits, and no frame is lost or rendered twice."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import httpx2
import msgspec
import pytest
import sqlalchemy as sa
import structlog
from api_client import ApiClient

from framefarm.core.errors import Conflict, NotAuthenticated
from framefarm.protocol import node as msg
from framefarm.server.jobs.tables import job_state, tasks
from framefarm.server.sessions import routes, service
from framefarm.server.sessions.routes import NodeApi
from framefarm.server.sessions.tables import attempts, files, frames


def committed(site: ApiClient) -> list[int]:
    return sorted(f["frame"] for f in site.rows(frames))


def test_machine_lost_gives_its_task_back_with_the_missing_frames_only(site: ApiClient) -> None:
    job = site.submit(frame_range="1-4", chunk_size=4)["id"]
    first = site.runner(job)
    (task,) = first.sync().tasks
    first.report(first.started(task), first.saved(task, 1), first.saved(task, 2))
    first.lose()
    lost = site.row(attempts)
    assert (lost["outcome"], lost["frames_done"], lost["cost_micros"]) == ("lost", 2, 0)
    second = site.runner(job)
    (again,) = second.sync().tasks
    assert (again.number, again.frames) == (task.number, [3, 4])
    second.render(again)
    site.publish()
    assert committed(site) == [1, 2, 3, 4]
    assert site.status(job) == "success"


def test_calls_of_a_session_that_was_given_up_are_refused(site: ApiClient) -> None:
    runner = site.runner(site.submit()["id"])
    (task,) = runner.sync().tasks
    runner.lose()
    with pytest.raises(service.SessionOver):
        runner.report(runner.saved(task, task.frames[0]))
    with pytest.raises(service.SessionOver):
        runner.sync()
    assert committed(site) == []


@pytest.mark.parametrize(
    "change",
    [
        {"staged": "../../secret.key"},
        {"staged": ".."},
        {"staged": "a/b"},
        {"path": "../shot_0001.png"},
        {"path": "/etc/passwd"},
        {"path": "a\nb.png"},
        {"size": -1},
        {"md5": "x" * 32},
        {"sha256": ""},
    ],
    ids=str,
)
def test_a_report_with_paths_outside_of_staging_is_rejected(site: ApiClient, change: dict[str, Any]) -> None:
    runner = site.runner(site.submit(frame_range="1")["id"])
    (task,) = runner.sync().tasks
    saved = runner.saved(task, 1)
    saved.files = [msgspec.structs.replace(saved.files[0], **change)]
    assert runner.report(runner.started(task), saved).verdicts == ["applied", "rejected"]
    assert committed(site) == []
    assert site.rows(files) == []


def test_a_superseded_attempt_commits_nothing(site: ApiClient) -> None:
    runner = site.runner(site.submit(frame_range="1-3", chunk_size=3)["id"])
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.saved(task, 1))
    (again,) = runner.report(runner.ended(task, "cancelled")).desired.tasks
    assert (again.number, again.frames) == (task.number, [2, 3])
    assert runner.report(runner.saved(task, 2), runner.ended(task)).verdicts == ["superseded", "superseded"]
    assert committed(site) == [1]
    runner.render(again)
    assert {f["frame"]: f["attempt_id"] for f in site.rows(frames)} == {
        1: task.attempt,
        2: again.attempt,
        3: again.attempt,
    }


def test_an_attempt_of_another_session_commits_nothing(site: ApiClient) -> None:
    job = site.submit(frame_range="1-2")["id"]
    first, second = site.runner(job), site.runner(job)
    (task,) = first.sync().tasks
    assert second.report(second.saved(task, task.frames[0])).verdicts == ["superseded"]
    assert committed(site) == []


def test_a_frame_reported_twice_is_committed_once(site: ApiClient) -> None:
    runner = site.runner(site.submit(frame_range="1-2", chunk_size=2)["id"])
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.saved(task, 1))
    assert runner.report(runner.saved(task, 1)).verdicts == ["superseded"]
    assert len(site.rows(files)) == 1
    assert site.row(tasks)["frames_done"] == 1


def test_a_frame_that_was_not_ordered_is_rejected(site: ApiClient) -> None:
    runner = site.runner(site.submit(frame_range="1-2")["id"])
    (task,) = runner.sync().tasks
    assert runner.report(runner.saved(task, 77)).verdicts == ["rejected"]
    assert committed(site) == []


def test_a_repeated_report_is_acknowledged_and_changes_nothing(site: ApiClient) -> None:
    runner = site.runner(site.submit(frame_range="1-2", chunk_size=2)["id"])
    (task,) = runner.sync().tasks
    events = (runner.started(task), runner.saved(task, 1))
    assert runner.report(*events).last_seq == 1
    again = runner.report(*events, seq=1)
    assert (again.last_seq, again.verdicts) == (1, [])
    assert committed(site) == [1]
    assert site.row(job_state)["frames_done"] == 1


def test_a_report_out_of_order_is_refused_with_the_expected_number(site: ApiClient) -> None:
    runner = site.runner(site.submit()["id"])
    (task,) = runner.sync().tasks
    with pytest.raises(service.ReportGap) as refused:
        runner.report(runner.started(task), seq=3)
    assert refused.value.expected == 1
    assert site.row(attempts)["started_ms"] is None


def test_frames_missing_from_a_success_make_it_a_failure(site: ApiClient) -> None:
    job = site.submit(frame_range="1-2", chunk_size=2, task_retries=0)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.saved(task, 1), runner.ended(task))
    assert site.row(attempts)["cause"] == "frames_missing"
    assert site.status(job) == "failed"


def test_a_task_released_before_it_began_leaves_no_attempt(site: ApiClient) -> None:
    runner = site.runner(site.submit(frame_range="1")["id"])
    (task,) = runner.sync().tasks
    runner.report(msg.TaskReleased(attempt=task.attempt))
    assert task.attempt not in {a["id"] for a in site.rows(attempts)}
    assert site.row(tasks)["attempt_count"] <= 1


def test_the_first_hello_wins(site: ApiClient) -> None:
    runner = site.runner(site.submit()["id"])
    hello = msg.Hello(protocol=msg.PROTOCOL_VERSION, node="n", pid=2, boot_id="b")
    with pytest.raises(Conflict):
        site.context.db.write_now(service.hello, site.context, runner.session, runner.token, hello)


def test_a_wrong_token_is_refused(site: ApiClient) -> None:
    runner = site.runner(site.submit()["id"])
    runner.token = "guessed"
    with pytest.raises(NotAuthenticated):
        runner.sync()


def call(api: NodeApi, name: str, body: bytes) -> int:
    """Status of a runner's call with a wrong token."""

    async def post() -> int:
        transport = httpx2.ASGITransport(app=api.router())
        async with httpx2.AsyncClient(transport=transport, base_url="http://farm") as client:
            headers = {"Authorization": "Bearer guessed"}
            answer = await client.post(f"/node/v1/sessions/ses_1/{name}", content=body, headers=headers)
            return answer.status_code

    return asyncio.run(post())


def test_a_sync_with_a_wrong_token_does_not_end_the_sessions_call(site: ApiClient) -> None:
    api, held_call = NodeApi(site.context), object()
    api.held["ses_1"] = held_call
    assert call(api, "sync", b'{"seen": 0, "wait_seconds": 0}') == 401
    assert api.held == {"ses_1": held_call}


def test_a_body_with_a_wrong_token_is_read_up_to_a_limit(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_BODY_BYTES", 1000)
    assert call(NodeApi(site.context), "reports", b" " * 1001) == 413


def test_several_sessions_share_a_job_and_no_frame_is_rendered_twice(site: ApiClient) -> None:
    job = site.submit(frame_range="1-40")["id"]
    runners = [site.runner(job) for _ in range(4)]
    rendered: list[int] = []
    working = True
    while working:
        working = False
        for runner in runners:
            for task in runner.sync().tasks[:1]:
                rendered += task.frames
                runner.render(task)
                working = True
    site.publish()
    assert sorted(rendered) == list(range(1, 41))
    assert site.status(job) == "success"


def test_a_full_disk_is_a_503_to_a_runner_and_one_line_in_the_log(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sa.exc.OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(service, "report", full)
    with structlog.testing.capture_logs() as logged:
        assert call(NodeApi(site.context), "reports", b'{"seq": 1, "events": []}') == 503
    assert [(e["event"], e["log_level"]) for e in logged] == [("disk_full", "warning")]
