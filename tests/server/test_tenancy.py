"""Tenancy: by no route does an account see or change anything of another one."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from typing import Any

import pytest
from api_client import SCENE, ApiClient, member_of

DATA = b"unreleased film"
BODIES: dict[tuple[str, str], Any] = {
    ("PATCH", "/api/users/{user_id}"): {"disabled": True},
    ("PATCH", "/api/projects/{project_id}"): {"status": "archived"},
    ("PATCH", "/api/jobs/{job_id}"): {"action": "cancel"},
    ("PATCH", "/api/budgets/{budget_id}"): {"amount_micros": 1},
    ("PATCH", "/api/wrangler/rules/{rule_id}"): {"enabled": False},
    ("POST", "/api/jobs/{job_id}/retry"): {"frames": "1"},
    ("PATCH", "/api/webhooks/{webhook_id}"): {"enabled": False},
}
NOT_AN_ACCOUNTS = {
    "/api/enterprise/instances/{instance_id}",
    "/api/files/{file_id}",
    "/api/jobs/{job_id}/frames/{frame}/thumbnail",
}
"""Paths without an account: the farm's own list, and signed addresses, which need no token."""
ADMINS_ONLY = (
    {("PATCH", "/api/users/{user_id}")}
    | {
        (method, path)
        for method in ("GET", "PATCH", "DELETE")
        for path in (
            "/api/budgets/{budget_id}",
            "/api/wrangler/rules/{rule_id}",
            "/api/webhooks/{webhook_id}",
            "/api/webhooks/{webhook_id}/deliveries",
        )
    }
    | {("POST", "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/resend")}
)


@pytest.fixture
def rival(site: ApiClient) -> dict[str, str]:
    """Ids of the first account's things: a rendered job, a project, a user, a key."""
    job = site.submit(frame_range="1-2")
    site.render(job["id"])
    assert site.status(job["id"]) == "success"
    key = site.ask("POST", "/api/auth/keys", json={"name": "pipeline"}).json()
    rule = {"kind": "max_task_runtime", "seconds": 3600}
    hook = site.ask("POST", "/api/webhooks", json={"url": "https://1.1.1.1/hook"})
    assert hook.status_code == 201, hook.text
    return {
        "job_id": job["id"],
        "number": "0",
        "project_id": site.get("/api/projects")["data"][0]["id"],
        "user_id": site.get("/api/auth/me")["user"]["id"],
        "key_id": key["id"],
        "webhook_id": hook.json()["id"],
        "delivery_id": "1",
        "budget_id": site.ask("POST", "/api/budgets", json={"amount_micros": 10**9}).json()["id"],
        "rule_id": site.ask("POST", "/api/wrangler/rules", json=rule).json()["id"],
    }


def addresses(site: ApiClient) -> list[tuple[str, str]]:
    paths = site.get("/api/openapi.json")["paths"]
    return [
        (method.upper(), path)
        for path, operations in paths.items()
        if "{" in path and path not in NOT_AN_ACCOUNTS
        for method in operations
    ]


def fill_in(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: ids[m[1]], path)


def normalised(answer: Any, ids: dict[str, str]) -> Any:
    """Status and body of an answer, with ids replaced by their names and without the request id."""
    text = answer.text
    for name, value in ids.items():
        if len(value) > 5:
            text = text.replace(value, name)
    return answer.status_code, re.sub(r"req_\w+", "", text)


def test_ids_of_another_account_get_the_same_answers_as_unknown_ids(
    site: ApiClient, other: ApiClient, rival: dict[str, str]
) -> None:
    member = member_of(other, "mel@rival.example")
    unknown_ids = {k: v if k == "number" else v[:4] + "0" * 26 for k, v in rival.items()}
    before = site.get(f"/api/jobs/{rival['job_id']}")
    routes = addresses(site)
    assert {p.split("/")[2] for _, p in routes} >= {"jobs", "projects", "users", "auth"}
    for method, path in routes:
        body = BODIES.get((method, path))
        for client in (other, member):
            more = {} if body is None else {"json": body}
            theirs = client.ask(method, fill_in(path, rival), **more)
            unknown = client.ask(method, fill_in(path, unknown_ids), **more)
            assert normalised(theirs, rival) == normalised(unknown, unknown_ids), (method, path)
            forbidden = client is member and (method, path) in ADMINS_ONLY
            assert theirs.status_code == (403 if forbidden else 404), (method, path, theirs.text)
            assert theirs.headers["content-type"] == "application/problem+json"
    assert site.get(f"/api/jobs/{rival['job_id']}") == before
    assert site.get("/api/auth/me")["user"]["disabled"] is False


def test_lists_contain_nothing_of_another_account(
    site: ApiClient, other: ApiClient, rival: dict[str, str]
) -> None:
    text = "".join(
        other.ask("GET", path).text
        for path in (
            "/api/jobs", "/api/projects?status=all", "/api/users", "/api/auth/keys", "/api/auth/me",
            "/api/billing/current-period", "/api/billing/transactions", "/api/budgets", "/api/wrangler/rules",
        )
    )  # fmt: skip
    assert not [value for value in rival.values() if len(value) > 5 and value in text]
    assert site.email not in text


def test_a_submission_that_names_objects_of_another_account_is_refused(
    site: ApiClient, other: ApiClient, rival: dict[str, str]
) -> None:
    site.ask("POST", "/api/projects", json={"name": "secret film"})
    for wrong in (
        {"project": "secret film"},
        {"project": rival["project_id"]},
        {"depends_on": [rival["job_id"]]},
        {"instance_type": rival["project_id"]},
    ):
        answer = other.ask("POST", "/api/jobs", json=other.payload(**wrong))
        assert answer.status_code == 422, answer.text
        assert [e["field"] for e in answer.json()["errors"]] == list(wrong)
        assert "secret" not in answer.json()["errors"][0]["message"]


def test_projects_of_the_same_name_in_two_accounts_are_separate(site: ApiClient, other: ApiClient) -> None:
    created = [s.ask("POST", "/api/projects", json={"name": "dune"}) for s in (site, other)]
    assert [answer.status_code for answer in created] == [201, 201]
    assert created[0].json()["id"] != created[1].json()["id"]
    other.ask("PATCH", f"/api/projects/{created[1].json()['id']}", json={"action": "archive"})
    assert "dune" in {p["name"] for p in site.get("/api/projects")["data"]}


def test_a_hash_does_not_reveal_or_open_a_file_of_another_account(site: ApiClient, other: ApiClient) -> None:
    sent = site.upload(SCENE, DATA).json()
    one = {"md5": sent["md5"], "sha256": sent["sha256"], "size": sent["size"], "path": "/mine.blend"}
    many = {"files": [one, {"md5": "0" * 32}]}
    no = {"exists": False, "registered": False}
    assert other.ask("POST", "/api/uploads/md5", json=one).json() == no
    assert other.ask("POST", "/api/uploads/md5", json=many).json() == {"files": [no, no]}
    pins = {"upload_md5s": {SCENE: sent["md5"]}, "upload_sha256s": {SCENE: sent["sha256"]}}
    job = other.ask("POST", "/api/jobs", json=other.payload(**pins)).json()
    assert (job["status"], job["missing_paths"]) == ("syncing", [SCENE])


def test_a_cursor_is_valid_only_for_its_account_list_and_filters(site: ApiClient, other: ApiClient) -> None:
    for name in ("one", "two"):
        for account in (site, other):
            account.ask("POST", "/api/projects", json={"name": name})
    cursor = site.get("/api/projects?limit=1")["next_cursor"]
    assert [p["name"] for p in site.get(f"/api/projects?cursor={cursor}")["data"]] == ["one", "two"]
    tampered = ("B" if cursor[0] == "A" else "A") + cursor[1:]
    for client, path in (
        (other, f"/api/projects?cursor={cursor}"),
        (site, f"/api/jobs?cursor={cursor}"),
        (site, f"/api/projects?status=all&cursor={cursor}"),
        (site, f"/api/projects?cursor={tampered}"),
        (site, f"/api/projects?cursor={cursor[:-4]}"),
        (site, "/api/projects?cursor=%C3%A9"),
    ):
        answer = client.ask("GET", path)
        assert answer.status_code == 422, path
        assert [e["field"] for e in answer.json()["errors"]] == ["cursor"]


def test_a_signed_address_is_valid_for_one_file_and_cannot_be_altered(
    site: ApiClient, rival: dict[str, str]
) -> None:
    files = site.get(f"/api/jobs/{rival['job_id']}/files")["data"]
    urls = [urllib.parse.urlsplit(f["url"]) for f in files]
    first, second = ((u.path, dict(urllib.parse.parse_qsl(u.query))) for u in urls)
    anonymous = dataclasses.replace(site, token="")
    signature = first[1]["signature"]
    flipped = ("0" if signature[0] != "0" else "1") + signature[1:]
    altered = [
        (second[0], first[1]),
        (first[0], first[1] | {"expires": str(int(first[1]["expires"]) + 1)}),
        (first[0], first[1] | {"expires": "1"}),
        (first[0], first[1] | {"signature": flipped}),
        (first[0], first[1] | {"signature": "é"}),
        ("/api/files/99999999", first[1]),
    ]
    refused = [anonymous.ask("GET", path, params=query) for path, query in altered]
    assert {normalised(a, {}) for a in refused} == {normalised(refused[0], {})}
    assert refused[0].status_code == 403
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        assert anonymous.ask(method, first[0], params=first[1]).status_code == 405
