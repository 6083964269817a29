"""What a machine or a farm that was killed half-way leaves in staging."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from api_client import ApiClient

from framefarm.protocol import node as msg
from framefarm.server.outputs import staging_cleanup
from framefarm.server.sessions import expiry
from framefarm.server.sessions.tables import attempts, files


def staged(site: ApiClient, account: str, attempt: str, name: str) -> Path:
    path = site.context.store.path(f"staging/{account}/{attempt}/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"abc")
    return path


def sweep(site: ApiClient) -> None:
    context = site.context
    staging_cleanup.remove(
        context, context.db.read_now(staging_cleanup.abandoned, staging_cleanup.folders(context))
    )


def lose(site: ApiClient, session: str) -> None:
    site.context.db.write_now(expiry.lose_session, session, "runner_lost", "gone")


def test_what_a_machine_staged_and_could_not_report_goes_once_it_is_gone(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    account = site.rows(attempts)[0]["account_id"]
    runner.report(runner.started(task), runner.saved(task, 1))
    committed = staged(site, account, task.attempt, "1.png")
    unreported = staged(site, account, task.attempt, "2.png")
    sweep(site)
    assert unreported.exists(), "its machine may still report it"
    lose(site, runner.session)
    sweep(site)
    assert not unreported.exists()
    assert committed.exists(), "it is not published yet"
    site.publish()
    sweep(site)
    assert not committed.parent.exists()


def test_what_a_farm_published_and_could_not_remove_goes(site: ApiClient) -> None:
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


def test_what_belongs_to_no_attempt_waits_for_the_machines_of_its_time(site: ApiClient) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3)["id"]
    runner = site.runner(job)
    runner.sync()
    account = site.rows(attempts)[0]["account_id"]
    path = staged(site, account, "att_given_back", "1.png")
    sweep(site)
    assert path.exists(), "a machine that was there when it was made may still write beside it"
    lose(site, runner.session)
    sweep(site)
    assert not path.parent.exists()
