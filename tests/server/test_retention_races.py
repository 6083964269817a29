"""Submissions, checks and uploads in a race with the removal of the same content, on both databases.

Each operation is wholly before or after the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import SCENE, ApiClient, md5
from retention_harness import DAY_MS, HOUR_MS, WEEK_MS, age, new_pass, objects
from test_billing import FakeClock

from framefarm.core.errors import Conflict
from framefarm.protocol.api_files import FileCheck
from framefarm.server.accounts.tables import users
from framefarm.server.actor import Actor
from framefarm.server.database import Tx
from framefarm.server.files import manifests, service
from framefarm.server.files.tables import contents, manifest_contents, registrations
from framefarm.server.files.tables import manifests as manifest_rows
from framefarm.server.job_api import routes
from framefarm.server.jobs.tables import jobs
from framefarm.server.retention import expired_content
from framefarm.server.submission import storing

DATA = b"a scene"
SHA = hashlib.sha256(DATA).hexdigest()
CONTENT = service.Content(SHA, md5(DATA), len(DATA))


@pytest.fixture
def clock(site: ApiClient) -> FakeClock:
    """A clock at which the uploaded scene was last claimed more than a week ago."""
    clock = FakeClock(site)
    assert site.upload(SCENE, DATA).status_code == 200
    clock.now_ms += WEEK_MS + 1
    return clock


def actor_of(site: ApiClient) -> Actor:
    user = site.row(users, users.c.email == site.email)
    return Actor(site.account_id, user["id"], "admin", site.email, "tok", "login")


class Paused:
    """A unit of work that pauses just before its commit."""

    def __init__(self, site: ApiClient, work: Callable[[Tx], Any]) -> None:
        self._done, self._go_on = threading.Event(), threading.Event()

        def paused(tx: Tx) -> Any:
            try:
                result = work(tx)
            finally:
                self._done.set()
            assert self._go_on.wait(60)
            return result

        self._future = site.context.db.submit(paused)
        assert self._done.wait(60)

    def commit(self) -> Any:
        self._go_on.set()
        return self._future.result(60)


def condemning(site: ApiClient) -> Callable[[Tx], int]:
    policy = new_pass(site).policy
    return lambda tx: expired_content.condemn(tx, policy, site.account_id, [SHA])


def meet(site: ApiClient, first: Callable[[Tx], Any], second: Callable[[Tx], Any]) -> tuple[Any, Any]:
    """Start `second` between the work and the commit of `first`; what each returned, or `second` raised.

    On SQLite `second` waits for the one writer. On PostgreSQL both run until `second` waits for a lock of
    `first`, or is done.
    """
    paused = Paused(site, first)
    future = site.context.db.submit(second)
    if not site.context.db.is_sqlite:
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
        name = site.context.db.url.database
        with site.context.db.engine.connect() as conn:
            while not future.done() and not conn.exec_driver_sql(blocked, (name,)).scalar():
                conn.rollback()
    result = paused.commit()
    return result, future.exception(60) or future.result()


def is_condemned(site: ApiClient) -> bool:
    return site.row(contents, contents.c.sha256 == SHA)["condemned_ms"] is not None


def registering(site: ApiClient) -> Callable[[Tx], Any]:
    checks = [FileCheck(md5=md5(DATA), path="/film/again.blend")]
    actor = actor_of(site)
    return lambda tx: service.check(tx, site.context, actor, checks, many=False)[0]


def storing_content(site: ApiClient, generation: int | None) -> Callable[[Tx], Any]:
    actor = actor_of(site)
    return lambda tx: service.store_content(tx, site.context, actor, SCENE, CONTENT, generation)


def test_content_that_is_claimed_first_is_not_condemned(site: ApiClient, clock: FakeClock) -> None:
    answer, condemned_count = meet(site, registering(site), condemning(site))
    assert (answer, condemned_count) == ({"exists": True, "registered": True}, 0)
    assert not is_condemned(site)


def test_content_that_is_condemned_first_does_not_exist_for_a_check(
    site: ApiClient, clock: FakeClock
) -> None:
    condemned_count, answer = meet(site, condemning(site), registering(site))
    assert (answer, condemned_count) == ({"exists": False, "registered": False}, 1)
    assert [r["path"] for r in site.rows(registrations)] == [SCENE]


def test_an_upload_of_stored_content_keeps_it_from_being_condemned(site: ApiClient, clock: FakeClock) -> None:
    answer, condemned_count = meet(site, storing_content(site, None), condemning(site))
    assert (answer["deduplicated"], condemned_count) == (True, 0)


def test_an_upload_of_content_condemned_meanwhile_stores_its_own_bytes(
    site: ApiClient, clock: FakeClock
) -> None:
    condemned_count, error = meet(site, condemning(site), storing_content(site, None))
    assert condemned_count == 1 and isinstance(error, service.ContentMoved)
    answer = site.context.db.write_now(storing_content(site, 77))
    row = site.row(contents, contents.c.sha256 == SHA)
    assert (answer["deduplicated"], row["generation"], row["condemned_ms"]) == (False, 77, None)


def submission(site: ApiClient, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tx], Any]:
    """The transaction of a submission that is prepared and has stored its manifest."""
    caught: list[Any] = []

    async def command(_request: Any, _actor: Any, _body: Any, work: Any, *args: Any, **_: Any) -> Any:
        caught.append((work, args))
        raise Conflict("caught")

    with monkeypatch.context() as patched:
        patched.setattr(routes, "command", command)
        assert site.ask("POST", "/api/jobs", json=site.payload()).status_code == 409
    ((work, args),) = caught
    return lambda tx: work(tx, *args)


def test_a_submission_keeps_its_content_from_being_condemned(
    site: ApiClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, condemned_count = meet(site, submission(site, monkeypatch), condemning(site))
    assert (answer["status"], answer["missing_paths"], condemned_count) == ("pending", [], 0)
    assert not is_condemned(site)


def test_a_submission_whose_content_is_condemned_meanwhile_takes_its_snapshot_again(
    site: ApiClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemned_count, error = meet(site, condemning(site), submission(site, monkeypatch))
    assert condemned_count == 1 and isinstance(error, storing.SnapshotMoved)
    assert not site.rows(jobs)


def test_content_condemned_between_snapshot_and_transaction_is_missing(
    site: ApiClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, times = manifests.store, count()

    def store(*args: Any) -> str:
        if next(times) == 0:
            assert site.context.db.write_now(condemning(site)) == 1
        return stored(*args)

    monkeypatch.setattr(manifests, "store", store)
    answer = site.ask("POST", "/api/jobs", json=site.payload())
    assert answer.status_code == 201, answer.text
    assert (answer.json()["status"], answer.json()["missing_paths"]) == ("syncing", [SCENE])
    assert site.upload(SCENE, DATA).json()["deduplicated"] is False
    assert site.status(answer.json()["id"]) == "pending"


def test_the_last_file_of_a_waiting_job_keeps_the_earlier_ones(site: ApiClient, clock: FakeClock) -> None:
    """The registration claims all files of the job, however old."""
    answer = site.ask("POST", "/api/jobs", json=site.payload(upload_paths=[SCENE, "/film/b.png"]))
    assert answer.json()["missing_paths"] == ["/film/b.png"]
    other, actor = service.Content("b" * 64, "b" * 32, 1), actor_of(site)

    def last(tx: Tx) -> Any:
        return service.store_content(tx, site.context, actor, "/film/b.png", other, 5)

    _, condemned_count = meet(site, last, condemning(site))
    assert condemned_count == 0
    assert site.status(answer.json()["id"]) == "pending"


def unused_manifest(site: ApiClient) -> str:
    """SHA-256 of a manifest whose only job is emptied."""
    answer = site.ask("POST", "/api/jobs", json=site.payload())
    sha256: str = site.row(jobs, jobs.c.id == answer.json()["id"])["manifest_sha256"]
    emptied = sa.update(jobs).values(emptied_ms=1, deleted_ms=1)
    site.context.db.write_now(lambda tx: tx.conn.execute(emptied).rowcount)
    return sha256


def removing_manifest(site: ApiClient, manifest: str) -> Callable[[Tx], Any]:
    return lambda tx: expired_content.remove_manifest(tx, site.account_id, manifest, 100)


def test_a_submission_that_reuses_an_unused_manifest_keeps_it(
    site: ApiClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = unused_manifest(site)
    clock.now_ms += HOUR_MS + 1
    answer, removed = meet(site, submission(site, monkeypatch), removing_manifest(site, manifest))
    assert (answer["status"], removed) == ("pending", (0, True))
    assert len(site.rows(manifest_contents)) == 1


def test_a_submission_writes_a_manifest_again_that_is_removed_meanwhile(
    site: ApiClient, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = unused_manifest(site)
    clock.now_ms += HOUR_MS + 1
    removed, answer = meet(site, removing_manifest(site, manifest), submission(site, monkeypatch))
    assert (answer["status"], removed) == ("pending", (2, True))
    assert site.row(jobs, jobs.c.id == answer["id"])["manifest_sha256"] == manifest
    assert len(site.rows(manifest_contents)) == len(site.rows(manifest_rows)) == 1


def test_a_submission_restores_the_removed_references_of_its_manifest(
    site: ApiClient, clock: FakeClock
) -> None:
    site.upload("/film/b.png", b"b")
    paths = {"upload_paths": [SCENE, "/film/b.png"]}
    site.upload(SCENE, DATA)
    first = site.ask("POST", "/api/jobs", json=site.payload(**paths)).json()["id"]
    manifest = site.row(jobs, jobs.c.id == first)["manifest_sha256"]
    emptied = sa.update(jobs).values(emptied_ms=1, deleted_ms=1)
    site.context.db.write_now(lambda tx: tx.conn.execute(emptied).rowcount)
    clock.now_ms += HOUR_MS + 1
    removed = site.context.db.write_now(expired_content.remove_manifest, site.account_id, manifest, 1)
    assert removed == (1, False) and len(site.rows(manifest_contents)) == 1
    site.ask("POST", "/api/jobs", json=site.payload(**paths))
    assert len(site.rows(manifest_contents)) == 2


def removal(site: ApiClient) -> tuple[list[Any], Path]:
    """Content condemned a day ago, as a pass has read it before the removal: its rows and its object."""
    (old,) = objects(site)
    assert site.context.db.write_now(condemning(site)) == 1
    site.context.db.clock_ms.now_ms += DAY_MS + 1  # type: ignore[attr-defined]
    rows = site.context.db.read_now(expired_content.content_to_remove, new_pass(site).policy, 10)
    assert [r.sha256 for r in rows] == [SHA]
    return rows, old


def removing_rows(rows: list[Any]) -> Callable[[Tx], Any]:
    return lambda tx: expired_content.remove_content_rows(tx, rows)


def test_an_upload_that_takes_over_a_condemned_row_keeps_it(site: ApiClient, clock: FakeClock) -> None:
    rows, _ = removal(site)
    answer, removed = meet(site, storing_content(site, 77), removing_rows(rows))
    assert (answer["deduplicated"], removed) == (False, 0)
    assert site.row(contents)["generation"] == 77 and site.rows(registrations)


def test_an_upload_whose_row_is_removed_meanwhile_starts_again(site: ApiClient, clock: FakeClock) -> None:
    rows, _ = removal(site)
    removed, answer = meet(site, removing_rows(rows), storing_content(site, 77))
    assert removed == 2
    if isinstance(answer, service.ContentMoved):  # PostgreSQL: the upload had read the row
        answer = site.context.db.write_now(storing_content(site, 77))
    assert answer["deduplicated"] is False
    assert (site.row(contents)["generation"], len(site.rows(registrations))) == (77, 1)


def test_an_upload_between_the_objects_and_the_rows_removal_loses_nothing(
    site: ApiClient, clock: FakeClock
) -> None:
    rows, old = removal(site)
    assert site.upload(SCENE, DATA).json()["deduplicated"] is False
    key = f"content/{site.account_id}/{SHA}/{rows[0].generation}"
    assert site.context.store.path(key) == old
    site.context.store.delete(key)
    assert site.context.db.write_now(removing_rows(rows)) == 0
    (new,) = objects(site)
    assert new != old and new.read_bytes() == DATA
    assert site.ask("POST", "/api/uploads/md5", json={"md5": md5(DATA)}).json()["exists"]


def test_two_uploads_at_once_leave_one_object(site: ApiClient, clock: FakeClock) -> None:
    """Both store their bytes before one of them writes its row."""
    data = b"twins"
    sha, both_stored = hashlib.sha256(data).hexdigest(), threading.Barrier(2)
    read = site.context.db.read

    async def slow(work: Any, *args: Any, **more: Any) -> Any:
        result = await read(work, *args, **more)
        if work is service.next_generation and not site.rows(contents, contents.c.sha256 == sha):
            await asyncio.get_running_loop().run_in_executor(None, both_stored.wait, 60)
        return result

    site.context.db.read = slow  # type: ignore[method-assign]

    async def both() -> list[Any]:
        form = {"data": {"path": "/t"}, "files": {"file": ("f", data)}}
        return await asyncio.gather(*(site.call("POST", "/api/uploads/file", **form) for _ in range(2)))

    answers = site.loop.run(both())
    assert sorted(a.json()["deduplicated"] for a in answers) == [False, True]
    assert [p.read_bytes() for p in objects(site) if sha in p.parts] == [data]


def test_a_touched_manifest_is_not_removed(site: ApiClient, clock: FakeClock) -> None:
    store, key = site.context.store, "manifests/acc/m"
    store.put([b"m"], key)
    old = store.path(key).stat().st_mtime_ns
    assert store.touch(key)
    assert not store.remove_older(key, old + 1) and store.path(key).exists()
    age(store.path(key), 2)
    assert store.remove_older(key, old)
    assert not store.touch(key), "a later submission learns that it was removed"
    assert not store.remove_older(key, old)
