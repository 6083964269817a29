"""Simultaneous changes by two people run one after the other: no server error, and no change twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import ApiClient, a_farm, a_site

from framefarm.core.errors import Conflict, NotFound
from framefarm.protocol import node as msg
from framefarm.protocol.api_catalog import ProjectChange
from framefarm.protocol.api_jobs import JobChange, Retry
from framefarm.protocol.api_webhooks import NewWebhook
from framefarm.server.accounts import service as accounts
from framefarm.server.accounts.tables import users
from framefarm.server.actor import Actor
from framefarm.server.database import Database, Tx, sqlite_url
from framefarm.server.job_api import actions
from framefarm.server.jobs import warnings
from framefarm.server.jobs.tables import job_state, jobs, tasks
from framefarm.server.outputs import publisher
from framefarm.server.projects import service as projects
from framefarm.server.sessions.tables import attempts
from framefarm.server.submission import storing
from framefarm.server.webhooks import service as webhooks
from framefarm.server.webhooks.tables import webhooks as webhooks_table


@pytest.fixture
def on_postgres(tmp_path: Path, postgres: Callable[[bool], str]) -> Iterator[ApiClient]:
    """A farm on PostgreSQL. SQLite has one writer, so it has no races."""
    with a_farm(tmp_path, postgres(True)) as context, a_site(context) as site:
        yield site


def admin(site: ApiClient) -> Actor:
    (user,) = site.rows(users, users.c.email == site.email)
    return Actor(site.account_id, user["id"], "admin", site.email, "tok", "login")


def overlapping(site: ApiClient, first: Callable[[Tx], Any], second: Callable[[Tx], Any]) -> tuple[Any, Any]:
    """Result or error of each. The second one begins while the first has done all but commit, and the
    first commits once the second has ended or waits for it.
    """
    inside, go_on = threading.Event(), threading.Event()

    def held(tx: Tx) -> Any:
        found = first(tx)
        inside.set()
        assert go_on.wait(30)
        return found

    db = site.context.db
    one = db.submit(held)
    assert inside.wait(30)
    two = db.submit(second)
    while not two.done() and not db.read_now(locks_waited_for):
        pass
    go_on.set()
    return outcome(one), outcome(two)


def locks_waited_for(tx: Tx) -> int:
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    return int(tx.conn.execute(sa.text(query)).scalar_one())


def outcome(future: Future[Any]) -> Any:
    try:
        return future.result(30)
    except Exception as error:
        return error


NAMED: dict[str, Callable[[Tx, ApiClient], Any]] = {
    "project": lambda tx, site: projects.create(tx, site.account_id, "", "Film", "operator"),
    "account": lambda tx, site: accounts.create_account(tx, "studio b"),
    "user": lambda tx, site: accounts.create_user(
        tx, site.account_id, "x@studio.example", "-", "member", "operator"
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_of_two_simultaneous_claims_of_a_name_one_is_refused(on_postgres: ApiClient, kind: str) -> None:
    def work(tx: Tx) -> Any:
        return NAMED[kind](tx, on_postgres)

    won, lost = overlapping(on_postgres, work, work)
    assert not isinstance(won, Exception)
    assert isinstance(lost, Conflict), repr(lost)


def test_a_project_is_not_renamed_to_a_name_that_another_takes_at_once(on_postgres: ApiClient) -> None:
    site = on_postgres
    project = site.ask("POST", "/api/projects", json={"name": "old"}).json()["id"]
    _, lost = overlapping(
        site,
        lambda tx: projects.create(tx, site.account_id, "", "new", "operator"),
        lambda tx: projects.change(tx, admin(site), project, ProjectChange(name="new")),
    )
    assert isinstance(lost, Conflict), repr(lost)


def test_two_admins_do_not_take_the_role_from_one_another(on_postgres: ApiClient) -> None:
    site = on_postgres

    def second(tx: Tx) -> str:
        made = accounts.create_user(tx, site.account_id, "bob@studio.example", "-", "admin", "operator")
        return made.id

    bob = site.context.db.write_now(second)

    def demote(user: str) -> Callable[[Tx], Any]:
        return lambda tx: accounts.change_user(tx, site.account_id, user, "user:x", role="member")

    _, refused = overlapping(site, demote(admin(site).user_id), demote(bob))
    assert isinstance(refused, Conflict), repr(refused)


def test_simultaneous_creations_do_not_pass_the_limit_of_webhooks(
    on_postgres: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "WEBHOOKS_PER_ACCOUNT", 1)
    site, body = on_postgres, NewWebhook(url="https://example.com/hook")

    def work(tx: Tx) -> Any:
        return webhooks.create(tx, site.context.keys, admin_of, body)

    admin_of = admin(site)
    _, refused = overlapping(site, work, work)
    assert isinstance(refused, Conflict), repr(refused)
    assert len(site.rows(webhooks_table)) == 1


@pytest.mark.parametrize("what", ["retry", "delete"])
def test_action_on_a_job_deleted_meanwhile_gets_a_404(on_postgres: ApiClient, what: str) -> None:
    site = on_postgres
    job = failed_job(site, 1)
    me = admin(site)

    def delete(tx: Tx) -> None:
        actions.delete(tx, me, job)

    def retry(tx: Tx) -> Any:
        return actions.retry(tx, me, job, Retry())

    _, late = overlapping(site, delete, retry if what == "retry" else delete)
    assert isinstance(late, NotFound), repr(late)
    assert site.row(job_state, job_state.c.job_id == job)["status"] == "failed"


def test_a_job_does_not_wait_for_one_that_ends_while_it_is_submitted(
    on_postgres: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, me = on_postgres, admin(on_postgres)
    first = site.submit()["id"]
    wait_for = storing._wait_for

    def late(tx: Tx, *more: Any) -> Any:
        """Cancel the job waited for after this submission has read its status."""
        found = wait_for(tx, *more)
        ending.append(site.context.db.submit(cancel))
        while not ending[0].done() and not site.context.db.read_now(locks_waited_for):
            pass
        return found

    def cancel(tx: Tx) -> None:
        actions.change(tx, me, first, JobChange(action="cancel"))

    ending: list[Future[None]] = []
    monkeypatch.setattr(storing, "_wait_for", late)
    second = site.submit(frame_range="2", depends_on=[first])["id"]
    ending[0].result(30)
    assert site.status(first) == "cancelled"
    assert site.status(second) == "holding"


def test_warning_removed_while_another_is_added_stays_removed(on_postgres: ApiClient) -> None:
    site = on_postgres
    job = site.submit()["id"]
    note = msg.NodeWarning(code="budget_low", message="little is left", subject="x")
    place = {job: ("gs://renders/x", "it is read-only")}
    site.context.db.write_now(publisher.warn_unwritable, {job}, place)
    overlapping(
        site,
        lambda tx: publisher.warn_unwritable(tx, {job}, {}),
        lambda tx: warnings.add(tx, job, [note]),
    )
    kept = site.row(jobs, jobs.c.id == job)["warnings"]
    assert [w["code"] for w in kept] == ["budget_low"]


# ------------------------------------------------------------------------- retrying many tasks


def failed_job(site: ApiClient, scouts: int) -> str:
    """A job of nine tasks, all begun: three failed, one of them a scout, and one preempted."""
    job: str = site.submit(task_retries=0, scout_frames=f"fml:{scouts}")["id"]
    site.ask("PATCH", f"/api/jobs/{job}", json={"action": "unhold"})
    runner = site.runner(job)
    wanted = runner.sync().tasks
    count = 0
    while wanted:
        task = wanted[0]
        bad = count < 3
        ends = runner.ended(task, "failed" if bad else "success", message="no" if bad else None)
        saved = [] if bad else [runner.saved(task, f) for f in task.frames]
        wanted = runner.report(runner.started(task), *saved, ends).desired.tasks
        count += 1
    runner.end()
    site.publish()
    assert site.status(job) == "failed"
    return job


def test_all_failed_tasks_go_back_in_a_few_statements(site: ApiClient) -> None:
    job = failed_job(site, 1)
    before = site.row(job_state, job_state.c.job_id == job)
    assert (before["rows_failed"], before["scouts_ended"]) == (3, 1)
    statements: list[str] = []

    def listen(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(site.context.db.engine, "before_cursor_execute", listen)
    answer = site.ask("POST", f"/api/jobs/{job}/retry")
    sa.event.remove(site.context.db.engine, "before_cursor_execute", listen)
    assert answer.json() == {"retried": ["000", "001", "002"]}
    assert len([s for s in statements if s.startswith("UPDATE tasks")]) == 1
    after = site.row(job_state, job_state.c.job_id == job)
    assert (after["rows_failed"], after["rows_pending"], after["scouts_ended"]) == (0, 3, 0)
    for task in site.rows(tasks, tasks.c.job_id == job, tasks.c.status == "pending"):
        assert (task["failures"], task["cause"], task["reason"]) == (0, None, None)
    assert site.render(job) == [1, 2, 3]
    assert site.status(job) == "success"


# --------------------------------------------------------------------- what a runner gives back


def test_a_task_that_was_begun_and_is_called_unbegun_is_kept_and_paid(site: ApiClient) -> None:
    job = site.submit(chunk_size=9)["id"]
    runner = site.runner(job)
    (task,) = runner.sync().tasks
    runner.report(runner.started(task))
    runner.clock_ms = 1
    runner.report(runner.saved(task, 1))
    assert runner.report(msg.TaskReleased(attempt=task.attempt)).verdicts == ["applied"]
    attempt = site.row(attempts, attempts.c.id == task.attempt)
    assert (attempt["outcome"], attempt["frames_done"]) == ("cancelled", 1)
    assert attempt["started_ms"] is not None
    assert runner.render_all() == list(range(2, 10))
    runner.end()
    site.publish()
    assert site.status(job) == "success"


# --------------------------------------------------------------------------- a closed database


def test_work_submitted_while_the_database_closes_is_done_or_refused_without_waiting(
    tmp_path: Path,
) -> None:
    for i in range(30):
        db = Database(sqlite_url(tmp_path / f"{i}.sqlite"))
        begin = threading.Barrier(5)

        def hand_in(db: Database = db, begin: threading.Barrier = begin) -> list[Any]:
            begin.wait(30)
            found = []
            for _ in range(50):
                try:
                    found.append(db.submit(lambda tx: 1))
                except RuntimeError as error:
                    found.append(str(error))
            return found

        with ThreadPoolExecutor(4) as threads:
            handed = [threads.submit(hand_in) for _ in range(4)]
            begin.wait(30)
            db.close()
            for found in handed:
                for one in found.result(30):
                    assert one == "the database is closed" or one.result(30) == 1


def test_a_closed_database_says_so_to_readers_too(tmp_path: Path) -> None:
    db = Database(sqlite_url(tmp_path / "x.sqlite"))
    db.close()
    with pytest.raises(RuntimeError, match="the database is closed"):
        asyncio.run(db.read(lambda tx: 1))
