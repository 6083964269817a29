"""Retention: data is removed after its time, unless something needs it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import SCENE, ApiClient, md5
from retention_harness import DAY_MS, HOUR_MS, WEEK_MS, age, delete, log_of, new_pass, objects, run_pass
from test_billing import FakeClock, books_agree

from framefarm.cli.main import build
from framefarm.server.accounts.tables import audit, tokens
from framefarm.server.budgets.tables import budget_holds
from framefarm.server.database import Tx
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.files.tables import contents, manifest_contents, manifests, missing_paths, registrations
from framefarm.server.http.tables import idempotency
from framefarm.server.jobs.tables import events, job_dependencies, job_state, jobs, tasks
from framefarm.server.mail.tables import mails
from framefarm.server.retention import expired_content
from framefarm.server.retention import service as retention
from framefarm.server.retention.retention_pass import Removed, RetentionPass
from framefarm.server.sessions.tables import attempts, files, frames, progress

DATA = b"a texture"
TEXTURE = "/film/wood.png"


@pytest.fixture
def clock(site: ApiClient) -> FakeClock:
    return FakeClock(site)


def exists(site: ApiClient, data: bytes = DATA) -> bool:
    found: bool = site.ask("POST", "/api/uploads/md5", json={"md5": md5(data)}).json()["exists"]
    return found


def submit(site: ApiClient, **more: Any) -> dict[str, Any]:
    answer = site.ask("POST", "/api/jobs", json=site.payload(**more))
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_unclaimed_content_is_condemned_after_a_week_and_removed_a_day_later(
    site: ApiClient, clock: FakeClock
) -> None:
    site.upload(TEXTURE, DATA)
    clock.now_ms += WEEK_MS
    assert run_pass(site) == {}
    clock.now_ms += 1
    assert run_pass(site)["content_condemned"]["rows"] == 1
    assert not exists(site), "condemned content is invisible"
    assert len(objects(site)) == 1
    clock.now_ms += DAY_MS
    assert run_pass(site) == {}
    clock.now_ms += 1
    assert run_pass(site)["content"] == {"what": "content", "rows": 2, "files": 1, "bytes": len(DATA)}
    assert not objects(site) and not site.rows(contents) and not site.rows(registrations)
    assert not list((site.context.store.root / "content").glob("*/*")), "its folder is removed too"


def test_asking_for_content_keeps_it_for_another_week(site: ApiClient, clock: FakeClock) -> None:
    site.upload(TEXTURE, DATA)
    for _ in range(3):
        clock.now_ms += WEEK_MS - HOUR_MS
        run_pass(site)
        assert exists(site)
    clock.now_ms += WEEK_MS + 1
    run_pass(site)
    assert not exists(site)


def test_condemned_content_that_is_uploaded_again_is_a_new_object(site: ApiClient, clock: FakeClock) -> None:
    site.upload(TEXTURE, DATA)
    (old,) = objects(site)
    clock.now_ms += WEEK_MS + 1
    run_pass(site)
    assert site.upload(TEXTURE, DATA).json()["deduplicated"] is False
    (new,) = set(objects(site)) - {old}
    assert exists(site) and new.read_bytes() == DATA
    age(old, 2)
    assert run_pass(site)["abandoned_content"]["files"] == 1, "the old generation has no row"
    assert objects(site) == [new]


def test_files_of_a_job_are_removed_only_after_it_is_deleted(site: ApiClient, clock: FakeClock) -> None:
    site.upload()
    site.upload(TEXTURE, DATA)
    job = submit(site, upload_paths=[SCENE, TEXTURE])["id"]
    clock.now_ms += 100 * DAY_MS
    assert "content_condemned" not in run_pass(site)
    delete(site, job)
    clock.now_ms += HOUR_MS + 1
    removed = run_pass(site)
    assert removed["manifests"]["rows"] == 3 and removed["content_condemned"]["rows"] == 2
    assert not site.rows(manifests) and not site.rows(manifest_contents)
    for path in objects(site, "manifests"):
        age(path, 2)
    clock.now_ms += DAY_MS + 1
    assert run_pass(site)["manifest_files"]["files"] == 1
    assert not objects(site) and not objects(site, "manifests")


def test_files_of_a_waiting_job_stay_until_its_last_file_arrives(site: ApiClient, clock: FakeClock) -> None:
    job = submit(site, upload_paths=[SCENE, TEXTURE])["id"]
    site.upload(TEXTURE, DATA)
    clock.now_ms += 30 * DAY_MS
    run_pass(site)
    site.upload(SCENE)
    answer = site.get(f"/api/jobs/{job}")
    assert (answer["status"], answer["missing_paths"]) == ("pending", [])
    manifest = site.row(jobs, jobs.c.id == job)["manifest_sha256"]
    references = site.rows(manifest_contents, manifest_contents.c.manifest_sha256 == manifest)
    assert {r["content_sha256"] for r in references} == {
        hashlib.sha256(d).hexdigest() for d in (DATA, b"a scene")
    }


def test_a_job_waits_again_for_an_arrived_file_that_was_removed(site: ApiClient, clock: FakeClock) -> None:
    """No retention pass does that; a person who edits the database might."""
    job = submit(site, upload_paths=[SCENE, TEXTURE])["id"]
    site.upload(TEXTURE, DATA)
    site.context.db.write_now(
        lambda tx: tx.conn.execute(sa.update(contents).values(condemned_ms=tx.now_ms)).rowcount
    )
    site.upload(SCENE)
    answer = site.get(f"/api/jobs/{job}")
    assert (answer["status"], answer["missing_paths"]) == ("syncing", [TEXTURE])
    site.upload(TEXTURE, DATA)
    assert site.get(f"/api/jobs/{job}")["status"] == "pending"


def test_a_deleted_job_keeps_the_rows_that_its_bill_needs(site: ApiClient, clock: FakeClock) -> None:
    job = site.submit(frame_range="1-3", chunk_size=3)["id"]
    runner = site.runner(job)
    (task, *_) = runner.sync().tasks
    runner.report(runner.started(task))
    clock.now_ms += 1000
    runner.report(
        runner.saved(task, 1), runner.saved(task, 2), runner.saved(task, 3), runner.ended(task, ms=1000)
    )
    drawn = site.context.store.path(f"thumbnails/{site.account_id}/{job}/x-1.webp")
    drawn.parent.mkdir(parents=True)
    site.publish()
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204
    drawn.parent.mkdir(parents=True, exist_ok=True)
    drawn.write_bytes(b"drawn late")
    log = log_of(site, task.attempt)
    bill = site.get("/api/billing/current-period")
    clock.now_ms += HOUR_MS + 1
    assert "deleted_jobs" not in run_pass(site), "its session is live"
    assert site.rows(frames, frames.c.job_id == job)
    runner.end()
    removed = run_pass(site)
    assert removed["deleted_jobs"]["rows"] >= 7 and removed["deleted_jobs"]["bytes"] == 10
    assert removed["logs"] == {"what": "logs", "rows": 0, "files": 1, "bytes": 12}
    for table in (frames, files, tasks, missing_paths, job_dependencies, mails, progress, budget_holds):
        assert not site.rows(table, table.c.job_id == job), table.name
    assert not drawn.parent.exists() and not log.exists()
    assert len(site.rows(attempts, attempts.c.job_id == job)) >= 1
    after = site.get("/api/billing/current-period")
    assert {k: bill[k] for k in ("total_cost", "by_job")} == {k: after[k] for k in ("total_cost", "by_job")}
    books_agree(site)
    assert "deleted_jobs" not in run_pass(site), "everything was removed at once"


def test_rows_of_a_deleted_job_are_removed_a_few_at_a_time(site: ApiClient, clock: FakeClock) -> None:
    job = site.submit(frame_range="1-40", chunk_size=1)["id"]
    site.render(job)
    site.ask("DELETE", f"/api/jobs/{job}")
    clock.now_ms += HOUR_MS + 1
    retention_pass = new_pass(site)
    retention_pass.limit = 10
    retention_pass.adapt_limit = lambda seconds: None  # type: ignore[method-assign]
    row_counts = [
        step.rows for step in retention.steps(retention_pass, [retention.deleted_jobs.empty_deleted_jobs])
    ]
    assert max(row_counts) == 10 and sum(row_counts) >= 120
    assert not site.rows(tasks, tasks.c.job_id == job)


def test_a_deleted_job_is_not_emptied_before_its_files_are_published(
    site: ApiClient, clock: FakeClock
) -> None:
    job = site.submit(frame_range="1")["id"]
    site.render(job)
    site.ask("DELETE", f"/api/jobs/{job}")
    unpublished = sa.update(files).where(files.c.job_id == job)
    site.context.db.write_now(lambda tx: tx.conn.execute(unpublished.values(published_ms=None)).rowcount)
    clock.now_ms += 100 * DAY_MS
    assert "deleted_jobs" not in run_pass(site)
    site.context.db.write_now(lambda tx: tx.conn.execute(unpublished.values(published_ms=1)).rowcount)
    assert run_pass(site)["deleted_jobs"]["rows"] == 3


def test_finished_jobs_are_deleted_only_if_the_operator_sets_jobs_kept_days(
    site: ApiClient, clock: FakeClock
) -> None:
    done, live = site.submit(frame_range="1")["id"], site.submit()["id"]
    site.render(done)
    clock.now_ms += 400 * DAY_MS
    assert "old_jobs" not in run_pass(site)
    site.context.settings = site.context.settings.model_copy(update={"jobs_kept_days": 90.0})
    assert run_pass(site)["old_jobs"]["rows"] == 1
    assert [j["id"] for j in site.get("/api/jobs")["data"]] == [live]
    (row,) = site.rows(audit, audit.c.action == "job.delete")
    assert (row["actor"], row["target"]) == ("system", done)


def test_logs_are_removed_thirty_days_after_their_attempts(site: ApiClient, clock: FakeClock) -> None:
    job = site.submit(frame_range="1-3")["id"]
    runner = site.runner(job)
    runner.render_all()
    for row in site.rows(attempts):
        log_of(site, row["id"])
    clock.now_ms += 30 * DAY_MS + 1
    assert "logs" not in run_pass(site), "their session is live"
    runner.end()
    site.publish()
    assert run_pass(site)["logs"]["files"] == 3
    answer = site.ask("GET", f"/api/jobs/{job}/tasks/000/log")
    assert (answer.status_code, answer.text) == (200, "")


def test_keys_tokens_events_and_deliveries_are_removed_after_their_time(
    site: ApiClient, clock: FakeClock
) -> None:
    headers = {"Idempotency-Key": "once"}
    site.upload()
    first = site.ask("POST", "/api/jobs", json=site.payload(output_path="out/a"), headers=headers)
    expires = datetime.fromtimestamp(clock.now_ms / 1000, UTC) + timedelta(hours=1)
    for value in (1, 2):
        site.ask("PATCH", f"/api/jobs/{first.json()['id']}", json={"priority": value})
    new_key = {"name": "old", "role": "read", "expires_at": expires.isoformat()}
    assert site.ask("POST", "/api/auth/keys", json=new_key).status_code == 201
    clock.now_ms += DAY_MS - 1
    assert "idempotency_keys" not in run_pass(site)
    repeated = site.ask("POST", "/api/jobs", json=site.payload(output_path="out/a"), headers=headers)
    assert repeated.json()["id"] == first.json()["id"]
    clock.now_ms += 1
    assert run_pass(site)["idempotency_keys"]["rows"] == 1
    assert not site.rows(idempotency)
    count = len(site.rows(events))
    clock.now_ms += WEEK_MS
    assert run_pass(site)["events"]["rows"] == count - 1
    clock.now_ms += 24 * DAY_MS
    assert run_pass(site)["tokens"]["rows"] == 1
    assert [t["kind"] for t in site.rows(tokens)] == ["login"]


def test_a_farm_killed_between_object_and_row_stays_consistent(site: ApiClient, clock: FakeClock) -> None:
    """Killed before an upload wrote its row: no row. Killed before the row was removed: no object."""
    lonely = site.context.store.path(f"content/{site.account_id}/{'0' * 64}/5")
    site.context.store.put([b"x"], f"content/{site.account_id}/{'0' * 64}/5")
    run_pass(site)
    assert lonely.exists(), "its upload may be about to write its row"
    age(lonely, 1.01)
    assert run_pass(site)["abandoned_content"] == {
        "what": "abandoned_content", "rows": 0, "files": 1, "bytes": 1
    }  # fmt: skip

    site.upload(TEXTURE, DATA)
    clock.now_ms += WEEK_MS + 1
    run_pass(site)
    objects(site)[0].unlink()
    clock.now_ms += DAY_MS + 1
    assert not exists(site)
    assert site.upload(TEXTURE, DATA).status_code == 200, "a new upload works as usual"
    assert exists(site) and len(objects(site)) == 1
    run_pass(site)
    assert exists(site) and len(objects(site)) == 1

    clock.now_ms += WEEK_MS + 1
    run_pass(site)
    objects(site)[0].unlink()
    clock.now_ms += DAY_MS + 1
    assert run_pass(site)["content"] == {"what": "content", "rows": 2, "files": 0, "bytes": len(DATA)}
    assert not site.rows(contents)


def test_a_dry_run_reports_what_is_due_and_removes_nothing(site: ApiClient, clock: FakeClock) -> None:
    job = site.submit(frame_range="1-3")["id"]
    site.render(job)
    site.ask("DELETE", f"/api/jobs/{job}")
    site.upload(TEXTURE, DATA)
    clock.now_ms += 40 * DAY_MS
    before = [site.rows(t) for t in (contents, manifests, frames, events, jobs)]
    dry = retention.run_for_operator(site.context, {"dry_run": True})
    assert before == [site.rows(t) for t in (contents, manifests, frames, events, jobs)]
    assert not site.rows(audit, audit.c.action == "collect")
    due = {row["what"]: row for row in dry["collected"]}
    done = retention.run_for_operator(site.context, {})
    removed = {row["what"]: row for row in done["collected"]}
    assert due["deleted_jobs"] == removed["deleted_jobs"]
    assert due["content_condemned"] == {
        "what": "content_condemned", "rows": 1, "files": 0, "bytes": len(DATA)
    }  # fmt: skip
    assert removed["content_condemned"]["rows"] == 2, "this one and the deleted job's"
    clock.now_ms += DAY_MS + 1
    assert retention.run_for_operator(site.context, {"dry_run": True})["bytes"] == len(DATA) + len(b"a scene")
    assert retention.run_for_operator(site.context, {})["bytes"] == len(DATA) + len(b"a scene")
    assert len(site.rows(audit, audit.c.action == "collect")) == 2


def test_the_operators_command_works_on_a_farm_that_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    data = str(tmp_path / "farm")
    result = CliRunner().invoke(build(), ["admin", "collect", "--data", data, "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {"dry_run": True, "bytes": 0, "collected": []}
    result = CliRunner().invoke(build(), ["admin", "collect", "--data", data])
    assert (result.exit_code, result.output) == (0, "no content, logs or rows are due for removal\n")


def test_a_process_that_lost_the_lead_removes_nothing(site: ApiClient, clock: FakeClock) -> None:
    class LeadLost(Exception):
        pass

    def require_lead(_tx: Any) -> None:
        raise LeadLost

    site.upload(TEXTURE, DATA)
    clock.now_ms += WEEK_MS + 1
    with pytest.raises(LeadLost):
        site.loop.run(retention.run_pass(site.context, require_lead, retention.ROWS))
    assert exists(site)


@pytest.mark.parametrize("leads", [True, False])
def test_a_part_that_fails_does_not_stop_the_others(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch, leads: bool
) -> None:
    """A process that does not lead starts no part."""
    done: list[str] = []

    def fails(_pass: RetentionPass) -> Iterator[Removed]:
        done.append("fails")
        raise PermissionError("an object that cannot be removed")
        yield

    def works(_pass: RetentionPass) -> Iterator[Removed]:
        done.append("works")
        yield from ()

    checks: list[str] = []
    second = threading.Event()

    def require_lead(_tx: Tx) -> None:
        checks.append("check")
        if done[2:] or (not leads and checks[1:]):
            second.set()
        if not leads:
            raise NotLeader

    async def main() -> None:
        for name, value in {"ROWS": (fails, works), "FIRST_PASS_SECONDS": 0, "PASS_SECONDS": 0}.items():
            monkeypatch.setattr(retention, name, value)
        task = asyncio.create_task(retention.run(site.context, require_lead))
        assert await asyncio.to_thread(second.wait, 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    site.loop.run(main())
    assert done[:3] == (["fails", "works", "fails"] if leads else [])


def test_the_metrics_count_removed_bytes(site: ApiClient, clock: FakeClock) -> None:
    site.upload(TEXTURE, DATA)
    clock.now_ms += WEEK_MS + 1
    site.loop.run(retention.run_pass(site.context, retention.no_lead_required, retention.ROWS))
    clock.now_ms += DAY_MS + 1

    def counted() -> float:
        lines = site.ask("GET", "/metrics").text.splitlines()
        name = 'framefarm_collected_bytes_total{what="content"} '
        return sum(float(x.removeprefix(name)) for x in lines if x.startswith(name))

    before = counted()
    site.loop.run(retention.run_pass(site.context, retention.no_lead_required, retention.ROWS))
    assert counted() - before == len(DATA)


def test_the_limit_shrinks_after_a_long_unit_of_work_and_grows_after_short_ones(site: ApiClient) -> None:
    retention_pass = new_pass(site)
    retention_pass.adapt_limit(0.03)
    assert retention_pass.limit == 50
    for _ in range(10):
        retention_pass.adapt_limit(1.0)
    assert retention_pass.limit == 10
    for _ in range(100):
        retention_pass.adapt_limit(0.001)
    assert retention_pass.limit == 2000


def test_the_condemning_statement_agrees_with_the_rule(site: ApiClient, clock: FakeClock) -> None:
    """Every combination of the rule's facts, compared with `core.retention.content_fate`."""
    from itertools import product

    from framefarm.core.retention import Content, content_fate

    retention_pass = new_pass(site)
    old = clock.now_ms - WEEK_MS
    fates: dict[str, str] = {}
    waiting = submit(site, upload_paths=[SCENE])
    user = site.row(jobs, jobs.c.id == waiting["id"])["user_id"]
    account = site.account_id

    def write(tx: Any) -> None:
        cases = product((old - 1, old, clock.now_ms), (None, clock.now_ms), (True, False), (True, False))
        for number, (claimed, condemned, referred, awaited) in enumerate(cases):
            sha = f"{number:064x}"
            fates[sha] = content_fate(
                Content(claimed, condemned, referred, awaited), retention_pass.policy, clock.now_ms
            )
            row = {"account_id": account, "sha256": sha, "md5": "0" * 32, "size": 1}
            moments = {"created_ms": 0, "last_claimed_ms": claimed, "condemned_ms": condemned}
            tx.conn.execute(sa.insert(contents).values(**row, **moments, generation=1))
            if referred:
                reference = {"account_id": account, "manifest_sha256": "m", "content_sha256": sha}
                tx.conn.execute(sa.insert(manifest_contents).values(reference))
            if awaited:
                path = {"user_id": user, "path": f"/film/{number}", "registered_ms": 0}
                tx.conn.execute(sa.insert(registrations).values(**row, **path))

    site.context.db.write_now(write)
    found = site.context.db.read_now(expired_content.content_to_condemn, retention_pass.policy, ("", ""))
    assert {r.sha256 for r in found} == {sha for sha, fate in fates.items() if fate == "condemn"}
    assert found


def test_a_runner_without_its_job_gets_410(site: ApiClient) -> None:
    job = site.submit()["id"]
    runner = site.runner(job)
    site.context.db.write_now(
        lambda tx: tx.conn.execute(sa.delete(job_state).where(job_state.c.job_id == job)).rowcount
    )
    headers = {"Authorization": f"Bearer {runner.token}"}
    body = b'{"seq": 1, "events": []}'
    answer = site.ask("POST", f"/node/v1/sessions/{runner.session}/reports", content=body, headers=headers)
    assert answer.status_code == 410, answer.text
