"""Publishing frames to a destination that is missing, blocked, or fails half-way."""

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


def destination(site: ApiClient, name: str) -> Path:
    return site.context.data / "buckets/renders" / name


def finish(site: ApiClient, name: str, frames: str = "1-3") -> str:
    """Id of a job whose frames are committed and staged with real bytes, but not yet published."""
    job: str = site.submit(frame_range=frames, output_path=f"gs://renders/{name}")["id"]
    runner = site.runner(job)
    assert runner.render_all()
    runner.end()
    for row in site.rows(files, files.c.job_id == job):
        staged = site.context.store.path(row["staged"])
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(f"{row['path']}".encode()[:3].ljust(row["size"], b"."))
    return job


def unwritable_destinations(site: ApiClient, job: str) -> list[str]:
    warnings = site.get(f"/api/jobs/{job}")["warnings"]
    return [w["subject"] for w in warnings if w["code"] == publisher.UNWRITABLE]


def staged_count(site: ApiClient) -> int:
    return sum(p.is_file() for p in (site.context.data / "store/staging").rglob("*"))


def block(site: ApiClient, name: str) -> None:
    """Put a file where the folder belongs: even root cannot write there."""
    shutil.rmtree(destination(site, name), ignore_errors=True)
    destination(site, name).write_bytes(b"in the way")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_stored(site: ApiClient) -> None:
    destination(site, "x").parent.mkdir(parents=True, exist_ok=True)
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
    job_answer = site.get(f"/api/jobs/{job}")
    assert (job_answer["status"], job_answer["frames"]["done"]) == ("running", 3)
    assert unwritable_destinations(site, job) == ["gs://renders/lost"]
    assert "output_path" in job_answer["waiting_for"]
    assert staged_count(site) == 3
    site.publish()
    assert unwritable_destinations(site, job) == ["gs://renders/lost"], "the warning is not repeated"
    destination(site, "lost").unlink()
    site.publish()
    assert (site.status(job), unwritable_destinations(site, job), staged_count(site)) == ("success", [], 0)
    assert len(list(destination(site, "lost").iterdir())) == 3


def test_an_unwritable_destination_does_not_delay_others(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "BATCH", 2)
    bad, good = finish(site, "bad"), finish(site, "good")
    block(site, "bad")
    result = publisher.make_final(site.context, site.context.db.read_now(publisher.unpublished_files))
    paused = [url for url, _ in result.refused.values()]
    assert paused == ["gs://renders/bad"]
    while rows := site.context.db.read_now(publisher.unpublished_files, paused):
        result = publisher.make_final(site.context, rows)
        site.context.db.write_now(publisher.record_result, site.context, result)
    assert (site.status(good), site.status(bad)) == ("success", "running")


def test_an_unmapped_bucket_does_not_delay_other_destinations(site: ApiClient) -> None:
    lost, fine = finish(site, "lost"), finish(site, "fine")
    key = jobs.c.id == lost
    site.context.db.write_now(
        lambda tx: tx.conn.execute(jobs.update().where(key).values(output_url="s3://gone/lost"))
    )
    site.publish()
    assert (site.status(lost), site.status(fine)) == ("running", "success")
    assert unwritable_destinations(site, lost) == ["s3://gone/lost"]


def test_a_folder_with_a_files_name_stops_only_that_file(site: ApiClient) -> None:
    job = finish(site, "taken")
    (destination(site, "taken") / "shot_0002.png").mkdir(parents=True)
    site.publish()
    names = sorted(p.name for p in destination(site, "taken").iterdir() if p.is_file())
    assert names == ["shot_0001.png", "shot_0003.png"]
    assert (site.status(job), staged_count(site)) == ("running", 1)
    (destination(site, "taken") / "shot_0002.png").rmdir()
    site.publish()
    assert site.status(job) == "success"
    assert not [p for p in destination(site, "taken").iterdir() if p.name.startswith(".")], (
        "no temporary file remains"
    )


def test_files_are_published_only_after_their_folder_is_synced(
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
    assert (site.status(job), staged_count(site)) == ("running", 3)
    assert unwritable_destinations(site, job) == ["gs://renders/sync"]
    monkeypatch.undo()
    site.publish()
    assert site.status(job) == "success"


def test_a_folder_removed_while_publishing_loses_no_frame(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finish(site, "gone")
    real = publisher.destinations.open_beneath

    def removed_after_opening(root: int, parts: Any, *, create: bool) -> int:
        folder = real(root, parts, create=create)
        if destination(site, "gone").exists():
            destination(site, "gone").rmdir()
        return folder

    monkeypatch.setattr(publisher.destinations, "open_beneath", removed_after_opening)
    site.publish()
    assert (site.status(job), staged_count(site)) == ("running", 3)
    monkeypatch.undo()
    site.publish()
    assert site.status(job) == "success"
    assert len(list(destination(site, "gone").iterdir())) == 3


@pytest.mark.parametrize("killed", ["before the rename", "after the rename"])
def test_a_farm_killed_while_publishing_leaves_no_temporary_file(site: ApiClient, killed: str) -> None:
    job = finish(site, "killed")
    rows = site.context.db.read_now(publisher.unpublished_files)
    folder = destination(site, "killed")
    if killed == "after the rename":
        publisher.make_final(site.context, rows)
    else:
        folder.mkdir(parents=True)
        for row in rows:
            os.link(site.context.store.path(row.staged), folder / publisher._temporary(row.staged))
    site.publish()
    assert site.status(job) == "success"
    names = ["shot_0001.png", "shot_0002.png", "shot_0003.png"]
    assert sorted(p.name for p in folder.iterdir()) == names
