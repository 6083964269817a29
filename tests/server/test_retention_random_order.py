"""Uploads, jobs, sessions and retention passes in random order over simulated months (hypothesis)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from api_client import SCENE, ApiClient, a_farm, a_site, md5
from fake_runner import FakeRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from retention_harness import DAY_MS, new_pass, objects, run_pass
from test_billing import FakeClock

from framefarm.core.job import FINISHED
from framefarm.protocol import node as msg
from framefarm.server.files import manifests, service
from framefarm.server.files.tables import contents, manifest_contents, missing_paths, registrations
from framefarm.server.files.tables import manifests as manifest_rows
from framefarm.server.jobs.tables import job_state, jobs
from framefarm.server.retention import expired_content
from framefarm.server.sessions.tables import sessions
from framefarm.server.submission import scene_reading

DATA = b"a scene"
SHA = hashlib.sha256(DATA).hexdigest()
PATHS = [SCENE, "/film/a.png", "/film/b.png"]
CONTENTS = [DATA, b"one", b"two", b"three"]


class Months(RuleBasedStateMachine):
    """Uploads, jobs, runners and retention passes, in any order, over months."""

    def __init__(self, site: ApiClient) -> None:
        super().__init__()
        self.site = site

    @initialize()
    def begin(self) -> None:
        if not isinstance(self.site.context.db.clock_ms, FakeClock):
            FakeClock(self.site)
        self.clock: Any = self.site.context.db.clock_ms
        self.runners: list[tuple[FakeRunner, str]] = []
        self.taken: dict[str, dict[str, bytes]] = {}
        """Job → bytes of each of its paths, as they were when it had them all."""

    @rule(path=st.sampled_from(PATHS), data=st.sampled_from(CONTENTS))
    def upload(self, path: str, data: bytes) -> None:
        assert self.site.upload(path, data).status_code == 200
        found = self.site.ask("POST", "/api/uploads/md5", json={"md5": md5(data)}).json()
        assert found["exists"], "what was just uploaded exists"

    @rule(path=st.sampled_from(PATHS), data=st.sampled_from(CONTENTS), register=st.booleans())
    def ask(self, path: str, data: bytes, register: bool) -> None:
        body = {"md5": md5(data)} | ({"path": path} if register else {})
        assert self.site.ask("POST", "/api/uploads/md5", json=body).status_code == 200

    @rule(scene=st.sampled_from(CONTENTS), other=st.sampled_from(CONTENTS), days=st.sampled_from([0, 8, 40]))
    def a_job_gets_its_files(self, scene: bytes, other: bytes, days: int) -> None:
        """The last file arrives days after the first, with retention passes in between."""
        self.upload(SCENE, scene)
        self.submit({PATHS[1]}, None)
        self.time_passes(days)
        self.run_pass(killed=False)
        self.a_waiting_job_loses_no_arrived_file()
        self.upload(PATHS[1], other)
        self.a_waiting_job_loses_no_arrived_file()

    @rule(days=st.sampled_from([2, 8, 16]))
    def retention_passes_run_for(self, days: int) -> None:
        for _ in range(days // 2):
            self.time_passes(2)
            self.run_pass(killed=False)

    @rule(more=st.sets(st.sampled_from(PATHS[1:])), pin=st.none() | st.sampled_from(CONTENTS))
    def submit(self, more: set[str], pin: bytes | None) -> None:
        body: dict[str, Any] = {"upload_paths": [SCENE, *sorted(more)], "frame_range": "1-2"}
        if pin is not None:
            body["upload_sha256s"] = {SCENE: hashlib.sha256(pin).hexdigest()}
        answer = self.site.ask("POST", "/api/jobs", json=self.site.payload(**body))
        assert answer.status_code == 201, answer.text

    @rule(days=st.sampled_from([0.01, 0.5, 1.5, 6.9, 8, 40]))
    def time_passes(self, days: float) -> None:
        self.clock.now_ms += round(days * DAY_MS)
        for path in (*objects(self.site), *objects(self.site, "manifests")):
            status = path.stat()
            then = status.st_mtime - days * 86_400
            os.utime(path, (then, then))

    @rule()
    def an_upload_is_killed_before_its_row(self) -> None:
        generation = self.site.context.db.read_now(service.next_generation, self.site.account_id, SHA) or 3
        key = f"content/{self.site.account_id}/{SHA}/{generation}"
        if not self.site.context.store.path(key).exists():
            self.site.context.store.put([DATA], key)

    @rule(killed=st.booleans())
    def run_pass(self, killed: bool) -> None:
        """`killed`: the pass ends between the removal of objects and of their rows."""
        if killed:
            rows = self.site.context.db.read_now(
                expired_content.content_to_remove, new_pass(self.site).policy, 10
            )
            for row in rows:
                key = f"content/{row.account_id}/{row.sha256}/{row.generation}"
                self.site.context.store.delete(key)
            return
        run_pass(self.site)

    def _some(self, pick: int, *where: Any) -> Any:
        rows = self.site.rows(jobs, jobs.c.deleted_ms.is_(None), *where)
        return sorted(rows, key=lambda r: r["id"])[pick % len(rows)] if rows else None

    @rule(pick=st.integers(0, 5))
    def a_session_starts(self, pick: int) -> None:
        job = self._some(pick, jobs.c.id.in_(list(self._complete_jobs())))
        if job is None or len(self.runners) > 3:
            return
        if not self.site.row(job_state, job_state.c.job_id == job["id"])["scene_read"]:
            self.site.settle(job["id"])
        if self.site.status(job["id"]) in {str(s) for s in FINISHED}:
            return
        self.runners.append((self.site.runner(job["id"]), job["id"]))

    @rule(pick=st.integers(0, 5))
    def a_session_renders_and_ends(self, pick: int) -> None:
        if self.runners:
            runner, _ = self.runners.pop(pick % len(self.runners))
            runner.render_all()
            runner.report(msg.SessionEnded(reason="drained"))
            self.site.publish()

    @rule(pick=st.integers(0, 5), delete=st.booleans())
    def cancel(self, pick: int, delete: bool) -> None:
        job = self._some(pick)
        if job is not None:
            self.site.ask("PATCH", f"/api/jobs/{job['id']}", json={"action": "cancel"})
            if delete:
                assert self.site.ask("DELETE", f"/api/jobs/{job['id']}").status_code in {204, 409}

    def _complete_jobs(self) -> dict[str, Any]:
        """Jobs that have all their files and are not emptied: not deleted, or with a live session."""
        live = {r["job_id"] for r in self.site.rows(sessions, ~sessions.c.ended)}
        rows = self.site.rows(jobs, jobs.c.emptied_ms.is_(None))
        missing = {r["job_id"] for r in self.site.rows(missing_paths)}
        return {
            r["id"]: r
            for r in rows
            if r["id"] not in missing and (r["deleted_ms"] is None or r["id"] in live)
        }

    @invariant()
    def every_job_keeps_its_snapshot(self) -> None:
        store = self.site.context.store
        for job_id, row in self._complete_jobs().items():
            now = {}
            for entry in manifests.load(store, row["account_id"], row["manifest_sha256"]):
                key = f"content/{row['account_id']}/{entry.sha256}/{entry.generation}"
                now[entry.path] = store.path(key).read_bytes()
                assert hashlib.sha256(now[entry.path]).hexdigest() == entry.sha256
            assert self.taken.setdefault(job_id, now) == now, "a snapshot never changes"

    @invariant()
    def a_live_session_never_loses_its_job(self) -> None:
        for _, job_id in self.runners:
            assert self.site.row(jobs, jobs.c.id == job_id)["emptied_ms"] is None

    @invariant()
    def visible_content_has_its_bytes(self) -> None:
        for row in self.site.rows(contents, contents.c.condemned_ms.is_(None)):
            key = f"content/{row['account_id']}/{row['sha256']}/{row['generation']}"
            assert self.site.context.store.path(key).stat().st_size == row["size"]

    @invariant()
    def a_waiting_job_loses_no_arrived_file(self) -> None:
        """A path that arrived for a waiting job is never missing again."""
        waiting = {r["job_id"] for r in self.site.rows(missing_paths)}
        for row in self.site.rows(jobs, jobs.c.id.in_(waiting), jobs.c.deleted_ms.is_(None)):
            if self.site.row(job_state, job_state.c.job_id == row["id"])["cancel_ms"] is not None:
                continue
            missing = {r["path"] for r in self.site.rows(missing_paths, missing_paths.c.job_id == row["id"])}
            before = getattr(self, "missing", {}).get(row["id"])
            assert before is None or missing <= before
            self.missing = {**getattr(self, "missing", {}), row["id"]: missing}

    def teardown(self) -> None:
        """End all sessions, delete all jobs: passes then remove everything."""
        for runner, _ in self.runners:
            runner.render_all()
            runner.report(msg.SessionEnded(reason="drained"))
        self.site.publish()
        for row in self.site.rows(jobs, jobs.c.deleted_ms.is_(None)):
            self.site.ask("PATCH", f"/api/jobs/{row['id']}", json={"action": "cancel"})
            assert self.site.ask("DELETE", f"/api/jobs/{row['id']}").status_code == 204
        for _ in range(3):
            self.time_passes(8)
            run_pass(self.site)
        assert not objects(self.site) and not objects(self.site, "manifests")
        for table in (contents, manifest_rows, manifest_contents, registrations, missing_paths):
            assert not self.site.rows(table), table.name


def test_in_any_order_needed_data_stays_and_the_rest_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_reading, "missing_files", None)  # these jobs read no scene
    with a_farm(tmp_path, None) as context, a_site(context) as site:
        run_state_machine_as_test(
            lambda: Months(site),
            settings=settings(
                max_examples=50,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
