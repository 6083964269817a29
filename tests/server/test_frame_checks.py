"""Warnings about frame colours, and thumbnails."""

from __future__ import annotations

import io
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient
from fake_runner import FakeRunner
from PIL import Image

from framefarm.protocol import node as msg
from framefarm.server.sessions.tables import frames
from framefarm.server.storage import keys

SCENE, BLACK = msg.FrameColour(), msg.FrameColour(colour=[0.0, 0.0, 0.0])


def saved(
    runner: FakeRunner, task: msg.TaskOrder, frame: int, colour: msg.FrameColour | None
) -> msg.FrameSaved:
    event = runner.saved(task, frame)
    event.look = colour
    return event


def drawn(runner: FakeRunner, task: msg.TaskOrder, frame: int, colour: str = "red") -> msg.FrameDrawn:
    """Write a thumbnail as a runner does, and return its event."""
    stream = io.BytesIO()
    Image.new("RGB", (48, 27), colour).save(stream, "webp")
    folder = Path(runner.order.thumbnails)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task.attempt}-{frame}.webp").write_bytes(stream.getvalue())
    return msg.FrameDrawn(attempt=task.attempt, frame=frame, bytes=len(stream.getvalue()))


def warned(site: ApiClient, job: str) -> list[int]:
    """Frames with the warning; the job has the same warnings."""
    frames_shown = site.get(f"/api/jobs/{job}/frames")["data"]
    numbers = [f["frame"] for f in frames_shown if [w["code"] for w in f["warnings"]] == ["uniform_picture"]]
    of_job = [w["frame"] for w in site.get(f"/api/jobs/{job}")["warnings"]]
    assert sorted(of_job) == numbers
    return numbers


def warned_of(
    site: ApiClient, colours: dict[int, msg.FrameColour | None], frame_range: str = "1-5"
) -> list[int]:
    """The frames that are warned of when these are saved one by one, in this order."""
    job = site.submit(frame_range=frame_range, chunk_size=5)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task))
    for frame, colour in colours.items():
        assert runner.report(saved(runner, task, frame, colour)).verdicts == ["applied"]
    return warned(site, job)


@pytest.mark.parametrize("order", [[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 3, 2]])
def test_uniform_picture_beside_different_ones_is_a_warning(site: ApiClient, order: list[int]) -> None:
    colours = {1: SCENE, 2: BLACK, 3: SCENE}
    assert warned_of(site, {f: colours[f] for f in order}) == [2]


def test_uniform_pictures_beside_each_other_are_no_warning(site: ApiClient) -> None:
    assert warned_of(site, dict.fromkeys(range(1, 6), BLACK)) == []


def test_both_ends_of_a_run_of_black_frames_are_warned_of(site: ApiClient) -> None:
    assert warned_of(site, {1: SCENE, 2: BLACK, 3: BLACK, 4: BLACK, 5: SCENE}) == [2, 4]


def test_a_stepped_range_has_its_own_neighbours(site: ApiClient) -> None:
    assert warned_of(site, {1: SCENE, 11: BLACK, 21: BLACK}, "1-41x10") == [11]


def test_an_unknown_neighbour_gives_no_warning(site: ApiClient) -> None:
    assert warned_of(site, {1: None, 2: BLACK, 3: None}) == []


def test_frames_of_one_report_are_compared_and_invalid_colours_ignored(site: ApiClient) -> None:
    job = site.submit(frame_range="1-4", chunk_size=4)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    odd = msg.FrameColour(colour=[0.1] * 1000)
    colours = {1: SCENE, 2: BLACK, 3: odd, 4: msg.FrameColour(colour=[])}
    report = runner.report(runner.started(task), *(saved(runner, task, f, x) for f, x in colours.items()))
    assert set(report.verdicts) == {"applied"}
    assert warned(site, job) == [2]


def render_one(site: ApiClient) -> tuple[str, FakeRunner, msg.TaskOrder]:
    job = site.submit(frame_range="1")["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.render(task)
    site.publish()
    return job, runner, task


def one_frame(site: ApiClient, job: str) -> dict[str, Any]:
    (frame,) = site.get(f"/api/jobs/{job}/frames")["data"]
    return dict(frame)


def fetch(site: ApiClient, url: str) -> Any:
    parts = urllib.parse.urlsplit(url)
    return site.ask("GET", f"{parts.path}?{parts.query}", headers={"Authorization": ""})


def test_a_thumbnail_reported_after_its_task_is_served_inline(site: ApiClient) -> None:
    job, runner, task = render_one(site)
    assert one_frame(site, job)["thumbnail"] is None
    assert runner.report(drawn(runner, task, 1)).verdicts == ["applied"]
    url = one_frame(site, job)["thumbnail"]
    answer = fetch(site, url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert answer.headers["content-disposition"] == "inline"
    assert answer.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(answer.content)) as small:
        assert (small.format, small.size) == ("WEBP", (48, 27))
    assert fetch(site, url.replace("/frames/1/", "/frames/2/")).status_code == 403
    assert fetch(site, url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
    assert one_frame(site, job)["thumbnail"] == url, "a browser may keep it"


def test_a_thumbnail_is_deleted_with_its_job(site: ApiClient) -> None:
    job, runner, task = render_one(site)
    runner.report(drawn(runner, task, 1))
    runner.end()
    url = one_frame(site, job)["thumbnail"]
    folder = site.context.store.path(keys.thumbnails(site.account_id, job))
    assert list(folder.iterdir())
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204
    assert fetch(site, url).status_code == 403
    assert not folder.exists()


def test_a_thumbnail_of_another_sessions_frame_is_superseded(site: ApiClient) -> None:
    job = site.submit(frame_range="1-2")["id"]
    one, other = site.runner(job), site.runner(job)
    (task, *_) = one.sync().tasks
    one.render(task)
    lie = msg.FrameDrawn(attempt=task.attempt, frame=task.frames[0], bytes=10)
    assert other.report(lie).verdicts == ["superseded"]
    for wrong in (-1, 0, 2 << 20):
        lie.bytes = wrong
        assert one.report(lie).verdicts == ["superseded"]
    assert {f["thumbnail_bytes"] for f in site.rows(frames)} == {None}


def test_a_truncated_or_linked_thumbnail_is_not_found(site: ApiClient) -> None:
    job, runner, task = render_one(site)
    runner.report(drawn(runner, task, 1))
    path = Path(runner.order.thumbnails) / f"{task.attempt}-1.webp"
    path.write_bytes(path.read_bytes()[:-1])
    assert fetch(site, one_frame(site, job)["thumbnail"]).status_code == 404
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert fetch(site, one_frame(site, job)["thumbnail"]).status_code == 404


def test_the_warning_has_the_frames_thumbnail(site: ApiClient) -> None:
    job = site.submit(frame_range="1-2", chunk_size=2)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), saved(runner, task, 1, SCENE), saved(runner, task, 2, BLACK))
    runner.report(drawn(runner, task, 2, "black"))
    (warning,) = site.get(f"/api/jobs/{job}")["warnings"]
    assert (warning["code"], warning["subject"]) == ("uniform_picture", "shot_0002.png")
    assert "shot_0002.png" in warning["message"]
    assert fetch(site, warning["thumbnail"]).status_code == 200
