"""People's actions on jobs in each state, pages of lists, and idempotency keys."""

from __future__ import annotations

from typing import Any

from api_client import ApiClient, member_of

from framefarm.server.accounts.tables import audit
from framefarm.server.jobs.tables import events, jobs


def patch(site: ApiClient, job: str, **body: Any) -> Any:
    return site.ask("PATCH", f"/api/jobs/{job}", json=body)


def finished(site: ApiClient) -> str:
    job: str = site.submit(frame_range="1")["id"]
    site.render(job)
    assert site.status(job) == "success"
    return job


def test_a_finished_job_refuses_hold_unhold_and_cancel_with_the_allowed_actions(site: ApiClient) -> None:
    job = finished(site)
    for body in (
        {"action": "hold"}, {"action": "unhold"}, {"action": "cancel"}, {"status": "holding"},
        {"status": "pending"}, {"status": "cancelled"}, {"priority": 1},
    ):  # fmt: skip
        answer = patch(site, job, **body)
        assert answer.status_code == 409, body
        assert answer.json()["state"] == "success"
    assert answer.headers["content-type"] == "application/problem+json"
    assert patch(site, job, action="cancel").json()["allowed"] == ["retry", "delete"]
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 404


def test_repeating_an_action_changes_nothing(site: ApiClient) -> None:
    job = site.submit()["id"]

    def trace() -> tuple[int, int]:
        return len(site.rows(events, events.c.job_id == job)), len(site.rows(audit, audit.c.target == job))

    for body, status in (
        ({"action": "unhold"}, "pending"),
        ({"status": "pending"}, "pending"),
        ({"action": "hold"}, "holding"),
        ({"action": "unhold"}, "pending"),
        ({"action": "cancel"}, "cancelled"),
    ):
        first = patch(site, job, **body)
        before = trace()
        again = patch(site, job, **body)
        assert (first.status_code, again.status_code) == (200, 200), body
        assert again.json() == first.json()
        assert first.json()["status"] == status
        assert trace() == before
    assert patch(site, job, action="hold").status_code == 409
    assert patch(site, job, action="unhold").status_code == 409


def test_a_job_with_missing_files_is_syncing_after_an_unhold(site: ApiClient) -> None:
    job = site.ask("POST", "/api/jobs", json=site.payload(hold=True)).json()
    assert (job["status"], job["hold_reasons"]) == ("holding", ["user"])
    assert patch(site, job["id"], action="unhold").json()["status"] == "syncing"


def test_a_change_without_a_valid_action_or_priority_is_bad_input(site: ApiClient) -> None:
    job = site.submit()["id"]
    before = site.get(f"/api/jobs/{job}")
    for body in (
        {}, {"action": "pause"}, {"status": "running"}, {"priority": 101}, {"priority": "high"},
        {"action": "hold", "status": "pending"}, {"job_title": "x"},
    ):  # fmt: skip
        assert patch(site, job, **body).status_code == 422, body
    assert site.get(f"/api/jobs/{job}") == before


def test_members_change_their_own_jobs_and_admins_all(site: ApiClient) -> None:
    one, two = member_of(site, "one@studio.example"), member_of(site, "two@studio.example")
    job = one.submit()["id"]
    assert two.ask("GET", f"/api/jobs/{job}").status_code == 200
    refused = [
        patch(two, job, action="hold"),
        patch(two, job, priority=1),
        two.ask("DELETE", f"/api/jobs/{job}"),
        two.ask("POST", f"/api/jobs/{job}/retry"),
        two.ask("POST", f"/api/jobs/{job}/tasks/0/retry"),
    ]
    assert [a.status_code for a in refused] == [403] * 5
    assert patch(one, job, action="hold").status_code == 200
    assert patch(site, job, action="cancel").status_code == 200


def test_members_make_projects_and_only_admins_archive_them(site: ApiClient) -> None:
    member = member_of(site, "one@studio.example")
    made = member.ask("POST", "/api/projects", json={"name": "short"}).json()["id"]
    assert member.ask("PATCH", f"/api/projects/{made}", json={"action": "archive"}).status_code == 403
    assert site.ask("PATCH", f"/api/projects/{made}", json={"action": "archive"}).status_code == 200
    assert member.ask("POST", "/api/jobs", json=member.payload(project="short")).status_code == 409
    assert site.ask("PATCH", f"/api/projects/{made}", json={"action": "restore"}).status_code == 200
    assert member.ask("POST", "/api/jobs", json=member.payload(project="short")).status_code == 201
    assert member.ask("POST", "/api/projects", json={"name": "short"}).status_code == 409


def test_a_page_has_from_1_to_500_items(site: ApiClient) -> None:
    paths = ["/api/jobs", "/api/projects", "/api/users", "/api/auth/keys", "/api/packages",
             "/api/enterprise/instances", "/api/billing/transactions"]  # fmt: skip
    for path in paths:
        for limit in ("0", "-1", "501", "many", "1.5"):
            answer = site.ask("GET", f"{path}?limit={limit}")
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "limit"), (path, limit)
        for limit in (1, 500):
            page = site.get(f"{path}?limit={limit}")
            assert set(page) == {"data", "next_cursor"}


def test_pages_are_stable_while_jobs_come_in(site: ApiClient) -> None:
    made = [site.ask("POST", "/api/jobs", json=site.payload()).json()["id"] for _ in range(5)]
    first = site.get("/api/jobs?limit=2")
    site.ask("POST", "/api/jobs", json=site.payload())
    seen, cursor = [j["id"] for j in first["data"]], first["next_cursor"]
    while cursor:
        page = site.get(f"/api/jobs?limit=2&cursor={cursor}")
        seen += [j["id"] for j in page["data"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]


def test_a_repeated_idempotency_key_gets_the_first_answer_again(site: ApiClient) -> None:
    site.upload()
    key, payload = {"Idempotency-Key": "k1"}, site.payload()
    first = site.ask("POST", "/api/jobs", json=payload, headers=key)
    assert first.status_code == 201
    project = site.get("/api/projects")["data"][0]["id"]
    site.ask("PATCH", f"/api/projects/{project}", json={"status": "archived"})
    again = site.ask("POST", "/api/jobs", json=payload, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    other = site.ask("POST", "/api/jobs", json=payload | {"frame_range": "1-2"}, headers=key)
    assert other.status_code == 409
    assert len(site.rows(jobs)) == 1


def test_an_idempotency_key_belongs_to_its_user_and_path(site: ApiClient) -> None:
    key, name = {"Idempotency-Key": "same"}, {"name": "one"}
    member = member_of(site, "one@studio.example")
    assert site.ask("POST", "/api/projects", json=name, headers=key).status_code == 201
    assert site.ask("POST", "/api/projects", json=name, headers=key).status_code == 201
    assert member.ask("POST", "/api/projects", json=name, headers=key).status_code == 409
    assert member.ask("POST", "/api/projects", json={"name": "two"}, headers=key).status_code == 201
    md5 = {"md5": "0" * 32}
    assert site.ask("POST", "/api/uploads/md5", json=md5, headers=key).status_code == 200
    for bad in ("", "k" * 256):
        answer = site.ask("POST", "/api/projects", json={"name": "x"}, headers={"Idempotency-Key": bad})
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key", bad
    now = site.context.db.clock_ms
    site.context.db.clock_ms = lambda: now() + 24 * 3_600_000
    assert site.ask("POST", "/api/projects", json={"name": "later"}, headers=key).status_code == 201
