"""Staged files left by a runner or a farm that was killed half-way, and their removal."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from api_client import ApiClient

from framefarm.protocol import node as msg
from framefarm.server.outputs import staging_cleanup
from framefarm.server.sessions import expiry
from framefarm.server.sessions.tables import attempts, files


def stage(site: ApiClient, account: str, attempt: str, name: str) -> Path:
    path = site.context.store.path(f"staging/{account}/{attempt}/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"abc")
    return path


def sweep(site: ApiClient) -> None:
    context = site.context
    staging_cleanup.remove(
        context,
        context.db.read_now(staging_cleanup.abandoned_folders, staging_cleanup.staging_folders(context)),
    )


def lose(site: ApiClient, session: str) -> None:
    site.context.db.write_now(expiry.lose_session, session, "runner_lost", "gone")


def test_unreported_files_are_removed_once_their_session_is_lost(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    account = site.rows(attempts)[0]["account_id"]
    runner.report(runner.started(task), runner.saved(task, 1))
    committed = stage(site, account, task.attempt, "1.png")
    unreported = stage(site, account, task.attempt, "2.png")
    sweep(site)
    assert unreported.exists(), "its runner may still report it"
    lose(site, runner.session)
    sweep(site)
    assert not unreported.exists()
    assert committed.exists(), "it is not published yet"
    site.publish()
    sweep(site)
    assert not committed.parent.exists()


def test_published_files_that_are_still_staged_are_removed(site: ApiClient) -> None:
    job = site.submit(frame_range="1")["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task), runner.saved(task, 1))
    runner.report(msg.SessionEnded(reason="drained"))
    row = site.row(files, files.c.job_id == job)
    site.context.db.write_now(
        lambda tx: tx.conn.execute(sa.update(files).values(published_ms=tx.now_ms)).rowcount
    )
    path = site.context.store.path(row["staged"])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    sweep(site)
    assert not path.parent.exists()


def test_files_of_an_unknown_attempt_stay_while_a_session_from_their_time_lives(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3)["id"]
    runner = site.runner(job)
    runner.sync()
    account = site.rows(attempts)[0]["account_id"]
    path = stage(site, account, "att_given_back", "1.png")
    sweep(site)
    assert path.exists(), "a session that was live when it was made may still write to its folder"
    lose(site, runner.session)
    sweep(site)
    assert not path.parent.exists()
