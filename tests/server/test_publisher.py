"""Bringing frames to their place when the place is not there, is in the way, or fails half-way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient

from framefarm.server.jobs.tables import jobs
from framefarm.server.outputs import publisher
from framefarm.server.sessions.tables import files


def place(site: ApiClient, name: str) -> Path:
    return site.context.data / "buckets/renders" / name


def finish(site: ApiClient, name: str, frames: str = "1-3") -> str:
    """A job whose frames are committed, staged with real bytes, and not yet delivered."""
    job: str = site.submit(frame_range=frames, output_path=f"gs://renders/{name}")["id"]
    runner = site.runner(job)
    assert runner.render_all()
    runner.end()
    for row in site.rows(files, files.c.job_id == job):
        staged = site.context.store.path(row["staged"])
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(f"{row['path']}".encode()[:3].ljust(row["size"], b"."))
    return job


def warned(site: ApiClient, job: str) -> list[str]:
    warnings = site.get(f"/api/jobs/{job}")["warnings"]
    return [w["subject"] for w in warnings if w["code"] == publisher.UNWRITABLE]


def staged(site: ApiClient) -> int:
    return sum(p.is_file() for p in (site.context.data / "store/staging").rglob("*"))


def block(site: ApiClient, name: str) -> None:
    """A file stands where the folder belongs: nobody can write there, root neither."""
    shutil.rmtree(place(site, name), ignore_errors=True)
    place(site, name).write_bytes(b"in the way")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_stored(site: ApiClient) -> None:
    place(site, "x").parent.mkdir(parents=True, exist_ok=True)
    block(site, "x")
    answer = site.ask("POST", "/api/jobs", json=site.payload(output_path="gs://renders/x/y"))
    assert answer.status_code == 422
    assert [e["field"] for e in answer.json()["errors"]] == ["output_path"]
    assert "can be written" in answer.json()["errors"][0]["message"]
    assert site.get("/api/jobs")["data"] == []


def test_place_unwritable_keeps_the_frames_says_so_and_gets_them_later(site: ApiClient) -> None:
    job = finish(site, "lost")
    block(site, "lost")
    site.publish()
    seen = site.get(f"/api/jobs/{job}")
    assert (seen["status"], seen["frames"]["done"]) == ("running", 3)
    assert warned(site, job) == ["gs://renders/lost"]
    assert "output_path" in seen["waiting_for"]
    assert staged(site) == 3
    site.publish()
    assert warned(site, job) == ["gs://renders/lost"], "said once"
    place(site, "lost").unlink()
    site.publish()
    assert (site.status(job), warned(site, job), staged(site)) == ("success", [], 0)
    assert len(list(place(site, "lost").iterdir())) == 3


def test_a_bad_place_holds_up_no_other(site: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "BATCH", 2)
    bad, good = finish(site, "bad"), finish(site, "good")
    block(site, "bad")
    made = publisher.publish(site.context, site.context.db.read_now(publisher.waiting))
    resting = [url for url, _ in made.refused.values()]
    assert resting == ["gs://renders/bad"]
    while rows := site.context.db.read_now(publisher.waiting, resting):
        made = publisher.publish(site.context, rows)
        site.context.db.write_now(publisher.settle, site.context, made)
    assert (site.status(good), site.status(bad)) == ("success", "running")


def test_a_bucket_that_is_mapped_no_more_holds_up_no_other(site: ApiClient) -> None:
    lost, fine = finish(site, "lost"), finish(site, "fine")
    key = jobs.c.id == lost
    site.context.db.write_now(
        lambda tx: tx.conn.execute(jobs.update().where(key).values(output_url="s3://gone/lost"))
    )
    site.publish()
    assert (site.status(lost), site.status(fine)) == ("running", "success")
    assert warned(site, lost) == ["s3://gone/lost"]


def test_one_name_that_is_taken_by_a_folder_stops_that_file_alone(site: ApiClient) -> None:
    job = finish(site, "taken")
    (place(site, "taken") / "shot_0002.png").mkdir(parents=True)
    site.publish()
    names = sorted(p.name for p in place(site, "taken").iterdir() if p.is_file())
    assert names == ["shot_0001.png", "shot_0003.png"]
    assert (site.status(job), staged(site)) == ("running", 1)
    (place(site, "taken") / "shot_0002.png").rmdir()
    site.publish()
    assert site.status(job) == "success"
    assert not [p for p in place(site, "taken").iterdir() if p.name.startswith(".")], "nothing half-done"


def test_nothing_is_delivered_until_its_folder_is_synced(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finish(site, "sync")
    real = os.fsync

    def failing_fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/sync"):
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(publisher.os, "fsync", failing_fsync)
    site.publish()
    assert (site.status(job), staged(site)) == ("running", 3)
    assert warned(site, job) == ["gs://renders/sync"]
    monkeypatch.undo()
    site.publish()
    assert site.status(job) == "success"


def test_a_folder_removed_during_the_delivery_loses_no_frame(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finish(site, "gone")
    real = publisher.destinations.open_beneath

    def removed_after_opening(root: int, parts: Any, *, create: bool) -> int:
        found = real(root, parts, create=create)
        if place(site, "gone").exists():
            place(site, "gone").rmdir()
        return found

    monkeypatch.setattr(publisher.destinations, "open_beneath", removed_after_opening)
    site.publish()
    assert (site.status(job), staged(site)) == ("running", 3)
    monkeypatch.undo()
    site.publish()
    assert site.status(job) == "success"
    assert len(list(place(site, "gone").iterdir())) == 3


@pytest.mark.parametrize("killed", ["before the rename", "after the rename"])
def test_a_farm_killed_during_the_delivery_leaves_no_file_of_its_own(site: ApiClient, killed: str) -> None:
    job = finish(site, "killed")
    rows = site.context.db.read_now(publisher.waiting)
    folder = place(site, "killed")
    if killed == "after the rename":
        publisher.publish(site.context, rows)
    else:
        folder.mkdir(parents=True)
        for row in rows:
            os.link(site.context.store.path(row.staged), folder / publisher._temporary(row.staged))
    site.publish()
    assert site.status(job) == "success"
    names = ["shot_0001.png", "shot_0002.png", "shot_0003.png"]
    assert sorted(p.name for p in folder.iterdir()) == names
