"""Every rule of a submission, through the API: an error names its field, and nothing is stored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import SCENE, ApiClient, a_farm, a_site, md5
from refused_submissions import MD5, REFUSED, SHA

from framefarm.protocol.api_jobs import JobSubmission
from framefarm.server.accounts.tables import accounts, audit
from framefarm.server.catalog import destinations
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.jobs.tables import events, job_state, jobs


def post(site: ApiClient, **fields: Any) -> Any:
    return site.ask("POST", "/api/jobs", json=site.payload(**fields))


def errors(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: list[dict[str, Any]] = answer.json()["errors"]
    assert all(set(e) == {"field", "message", "given"} for e in found)
    return found


def error(answer: Any) -> dict[str, Any]:
    (only,) = errors(answer)
    return only


def accepted(site: ApiClient, **fields: Any) -> dict[str, Any]:
    answer = post(site, **fields)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def stored(site: ApiClient) -> list[int]:
    """Counts of the rows and manifests that a submission writes."""
    manifests = (site.context.data / "store" / "manifests").rglob("*")
    return [len(site.rows(table)) for table in (jobs, job_state, events)] + [sum(1 for _ in manifests)]


def nothing_is_stored(site: ApiClient) -> bool:
    return not any(stored(site))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """One farm for all the rules that need nothing set up."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres")(True)
    with a_farm(tmp_path_factory.mktemp("rules"), url) as context, a_site(context) as site:
        yield site


# ------------------------------------------------------------------- one bad field, one error


@pytest.mark.parametrize(("fields", "name", "words"), [pytest.param(*r[1:], id=r[0]) for r in REFUSED])
def test_a_bad_value_is_refused_with_what_is_allowed(
    shared: ApiClient, fields: dict[str, Any], name: str, words: str
) -> None:
    before = stored(shared)
    body = json.dumps(shared.payload(**fields))
    found = error(shared.ask("POST", "/api/jobs", content=body, headers=JSON))
    assert found["field"] == name
    assert words in found["message"]
    assert stored(shared) == before


JSON = {"Content-Type": "application/json"}
REQUIRED = (
    "job_title",
    "project",
    "instance_type",
    "frame_range",
    "blender_version",
    "output_path",
    "upload_paths",
)
LATER = ("webhooks", "budget", "chunksize")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_field_without_a_default_is_required(shared: ApiClient, name: str) -> None:
    payload = shared.payload()
    del payload[name]
    assert error(shared.ask("POST", "/api/jobs", json=payload)) == {
        "field": name, "message": "is required", "given": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_an_unknown_field_is_refused_with_the_known_ones(shared: ApiClient, name: str) -> None:
    found = error(post(shared, **{name: "x"}))
    assert (found["field"], found["given"]) == (name, "x")
    assert "not a field" in found["message"] and "chunk_size" in found["message"]


REFUSED_NAMES = [
    "LD_PRELOAD", "LD_x", "PYTHONPATH", "PYTHON", "PATH", "HOME", "SHELL", "BLENDER_USER_SCRIPTS",
    "BLENDER_SYSTEM_PYTHON", "FRAMEFARM_DATA", "GCONV_PATH", "GLIBC_TUNABLES", "NSS_x", "LOCPATH",
    "LOCALDOMAIN", "MALLOC_CHECK_", "BASH_ENV", "ENV", "IFS", "TMPDIR", "XDG_RUNTIME_DIR", "HTTP_PROXY",
    "https_proxy", "NO_PROXY", "LIBGL_ALWAYS_SOFTWARE", "MESA_LOADER_DRIVER_OVERRIDE", "VK_ICD_FILENAMES",
    "__EGL_VENDOR_LIBRARY_DIRS", "__GLX_VENDOR_LIBRARY_NAME", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "ld_preload", "Path",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_a_variable_of_the_farms_own_is_refused(shared: ApiClient, name: str) -> None:
    found = error(post(shared, environment_variables={"FINE": "1", name: "x"}))
    assert found["field"] == f"environment_variables.{name}"
    assert "may not be set" in found["message"]


# -------------------------------------------------------------------------- all bad fields at once


def test_wrong_types_unknown_fields_and_broken_rules_are_reported_together(site: ApiClient) -> None:
    answer = post(
        site,
        job_title=7,
        chunk_size="1",
        webhooks="https://studio.example",
        project="nope",
        instance_type="nope",
        blender_version="9.9",
        frame_range="1-",
        scout_frames="x",
        output_path="gs://others/x",
        upload_paths=["relative"],
        upload_sha256s={SCENE: "short", "/b": 1},
        environment_variables={"1A": "", "LD_PRELOAD": "x", "B": 1, "OCIO": "/c"},
        depends_on=["job_nope"],
        priority=1000,
    )
    assert sorted(e["field"] for e in errors(answer)) == sorted([
        "job_title", "chunk_size", "webhooks", "project", "instance_type", "blender_version", "frame_range",
        "scout_frames", "output_path", "upload_paths[0]", f"upload_sha256s.{SCENE}", "upload_sha256s./b",
        "environment_variables.1A", "environment_variables.LD_PRELOAD", "environment_variables.B",
        "depends_on", "priority",
    ])  # fmt: skip
    assert nothing_is_stored(site)


def test_an_archived_project_is_reported_only_if_all_fields_are_good(site: ApiClient) -> None:
    project = site.ask("POST", "/api/projects", json={"name": "old"}).json()
    site.ask("PATCH", f"/api/projects/{project['id']}", json={"status": "archived"})
    assert error(post(site, project="old", chunk_size=0))["field"] == "chunk_size"
    answer = post(site, project="old")
    assert (answer.status_code, answer.json()["state"]) == (409, "archived")
    assert nothing_is_stored(site)


def test_a_long_value_is_cut_in_the_answer(shared: ApiClient) -> None:
    assert len(error(post(shared, job_title="x" * 100_000))["given"]) <= 200
    assert len(error(post(shared, job_title=["x" * 100_000]))["given"]) <= 200


# ----------------------------------------------------------------------------- what is accepted

TWO = ["/a.blend", "/b.blend"]
FINE = {"_A9": "é", "ENVY": ""}
OCIO = "/c/config.ocio"
ACCEPTED: list[Any] = [
    ("title-1", {"job_title": "x"}, {"job_title": "x"}),
    ("title-200", {"job_title": "é" * 200}, {"job_title": "é" * 200}),
    ("retries-0", {"preemptible_retries": 0}, {"preemptible_retries": 0}),
    ("retries-100", {"preemptible_retries": 100, "task_retries": 100}, {"task_retries": 100}),
    ("chunk-1000", {"chunk_size": 1000}, {"chunk_size": 1000}),
    ("frames-limits", {"frame_range": "-1048574,1048574"}, {"frame_range": "-1048574,1048574"}),
    ("frames-a-million", {"frame_range": "1-1000000"}, {"frame_range": "1-1000000"}),
    ("frames-unknown-until-read", {"frame_range": "fml:3"}, {"frames": None, "tasks": None}),
    ("blender-short", {"blender_version": "4.2"}, {"blender_version": "blender-4-2"}),
    ("blender-exact", {"blender_version": "4.2.23"}, {"blender_version": "blender-4-2"}),
    ("software-eevee", {"render_software": "eevee"}, {"render_software": "eevee"}),
    ("software-workbench", {"render_software": "workbench"}, {"render_software": "workbench"}),
    ("software-of-the-scene", {"render_software": ""}, {"render_software": ""}),
    ("output-bucket", {"output_path": "gs://renders/a//b/"}, {"output_url": "gs://renders/a/b"}),
    (
        "paths-drive",
        {"upload_paths": ["c:\\film\\shot.blend"]},
        {"upload_paths": ["C:/film/shot.blend"], "scene_path": "C:/film/shot.blend"},
    ),
    (
        "paths-unc-scene-in-other-case",
        {"upload_paths": ["\\\\nas\\f\\Shot.blend"], "scene_path": "\\\\NAS\\f\\shot.BLEND"},
        {"upload_paths": ["//nas/f/Shot.blend"], "scene_path": "//nas/f/Shot.blend"},
    ),
    ("missing-and-scripts", {"on_missing_files": "fail", "on_blocked_scripts": "warn"}, {}),
    ("paths-normalised", {"upload_paths": ["/film/./a.blend"]}, {"upload_paths": ["/film/a.blend"]}),
    (
        "scene-of-two",
        {"upload_paths": ["/a.blend", "/b.blend"], "scene_path": "/b.blend"},
        {"scene_path": "/b.blend"},
    ),
    ("scene-unknown-of-two", {"upload_paths": ["/a.blend", "/b.blend"]}, {"scene_path": None}),
    ("scene-not-a-blend", {"upload_paths": ["/a.bin"], "scene_path": "/a.bin"}, {"scene_path": "/a.bin"}),
    (
        "env",
        {"environment_variables": {"_A9": "é", "ENVY": ""}},
        {"environment_variables": {"_A9": "é", "ENVY": ""}},
    ),
    ("env-32k", {"environment_variables": {"A": "x" * 32_768}}, {}),
    (
        "ocio",
        {"upload_paths": [SCENE, "/c/config.ocio"], "environment_variables": {"OCIO": "/c/config.ocio"}},
        {},
    ),
    ("metadata", {"metadata": {"shot": "010"}}, {"metadata": {"shot": "010"}}),
    ("overrides", {"scene": "S", "camera": "C", "view_layers": ["V"], "samples": 1}, {"view_layers": ["V"]}),
    ("pin-upper-case", {"upload_sha256s": {SCENE: SHA.upper()}}, {"missing_paths": [SCENE]}),
    ("output-name", {"output_name": "shot_####"}, {"output_name": "shot_####"}),
    ("current", {"frame_range": " current "}, {"frames": None, "tasks": None}),
    ("no-scouts", {"scout_frames": ""}, {"scout_frames": ""}),
]


@pytest.mark.parametrize(("fields", "seen"), [pytest.param(*a[1:], id=a[0]) for a in ACCEPTED])
def test_a_good_value_is_accepted_and_returned_as_stored(
    shared: ApiClient, fields: dict[str, Any], seen: dict[str, Any]
) -> None:
    job = accepted(shared, **fields)
    assert {name: job[name] for name in seen} == seen
    assert shared.get(f"/api/jobs/{job['id']}") == job


def test_omitted_fields_have_the_documented_defaults(site: ApiClient) -> None:
    payload = {name: value for name, value in site.payload().items() if name in REQUIRED}
    job = site.ask("POST", "/api/jobs", json=payload).json()
    defaults = {
        "preemptible": True, "preemptible_retries": 1, "chunk_size": 1, "scout_frames": "",
        "render_software": "cycles", "environment_variables": {}, "priority": 50, "hold": False,
        "max_sessions": None, "task_retries": 2, "max_task_runtime_seconds": None, "depends_on": [],
        "metadata": {}, "scene": None, "camera": None, "view_layers": None, "resolution_percentage": None,
        "samples": None, "on_missing_files": "warn", "on_blocked_scripts": "hold", "addons": [],
        "output_name": None,
    }  # fmt: skip
    assert {name: job[name] for name in defaults} == defaults


def test_addons_are_uploads_of_accounts_that_may_run_scripts(site: ApiClient) -> None:
    fields = {"upload_paths": ["C:\\a.blend", "C:\\tools\\Tint.zip"], "addons": ["c:/tools/tint.zip"]}
    assert error(post(site, **fields))["field"] == "addons"
    allow(site)
    assert accepted(site, **fields)["addons"] == ["C:/tools/Tint.zip"]
    found = error(post(site, upload_paths=[SCENE], addons=["/tools/tint.zip"]))
    assert (found["field"], found["message"]) == ("addons[0]", "must be one of upload_paths")
    assert error(post(site, upload_paths=[SCENE], addons=["tint.zip"]))["field"] == "addons[0]"


def allow(site: ApiClient) -> None:
    def yes(tx: Tx) -> None:
        tx.conn.execute(
            sa.update(accounts).where(accounts.c.id == site.account_id).values(allow_scripts=True)
        )

    site.context.db.write_now(yes)


def test_a_disabled_instance_type_is_unknown_to_members(site: ApiClient) -> None:
    site.ask("PATCH", f"/api/enterprise/instances/{site.instance}", json={"enabled": False})
    member = site.member()
    unknown, disabled = (error(post(member, instance_type=i)) for i in ("nope", site.instance))
    assert disabled["message"] == unknown["message"]
    assert site.instance not in disabled["message"]


def test_an_instance_type_without_a_preemptible_price_takes_no_preemptible_job(site: ApiClient) -> None:
    def no_price(tx: Tx) -> None:
        mine = sa.update(instance_types).where(instance_types.c.id == site.instance)
        tx.conn.execute(mine.values(preemptible_price_micros=None))

    site.context.db.write_now(no_price)
    assert error(post(site, preemptible=True))["field"] == "preemptible"
    assert accepted(site, preemptible=False)["preemptible"] is False


def test_a_pinned_digest_decides_which_content_is_used(site: ApiClient) -> None:
    site.upload(data=b"old")
    site.upload(data=b"new")
    for pin in (
        {"upload_md5s": {SCENE: md5(b"old")}},
        {"upload_sha256s": {SCENE: hashlib.sha256(b"old").hexdigest()}},
    ):
        (taken,) = accepted(site, **pin)["inputs"]
        assert taken["md5"] == md5(b"old")


def test_a_pin_of_missing_content_waits_for_that_content_alone(site: ApiClient) -> None:
    site.upload(data=b"old")
    job = accepted(site, upload_sha256s={SCENE: hashlib.sha256(b"new").hexdigest()})
    assert (job["status"], job["missing_paths"]) == ("syncing", [SCENE])
    site.upload(data=b"other")
    assert site.status(job["id"]) == "syncing"
    site.upload(data=b"new")
    site.upload(data=b"later")
    seen = site.get(f"/api/jobs/{job['id']}")
    assert (seen["status"], seen["inputs"][0]["md5"]) == ("pending", md5(b"new"))


def test_an_input_that_an_earlier_job_used_is_warned_of_until_it_is_uploaded_again(site: ApiClient) -> None:
    site.upload()
    assert accepted(site)["warnings"] == []
    (warning,) = accepted(site)["warnings"]
    assert (warning["code"], warning["subject"]) == ("input_not_reconfirmed", SCENE)
    assert accepted(site, upload_sha256s={SCENE: SHA})["warnings"] == []
    site.upload()
    assert accepted(site)["warnings"] == []


def test_many_reused_inputs_are_warned_of_together(site: ApiClient) -> None:
    paths = [SCENE, *(f"/film/{i}.png" for i in range(149))]
    site.upload()
    files = [{"md5": MD5, "path": path} for path in paths]
    assert site.ask("POST", "/api/uploads/md5", json={"files": files}).status_code == 200
    accepted(site, upload_paths=paths)
    warnings = accepted(site, upload_paths=paths)["warnings"]
    assert len(warnings) == 101
    assert "50 more" in warnings[-1]["message"]


# ------------------------------------------------------------------------- places, dry runs


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_stored(site: ApiClient) -> None:
    root = site.context.data / "buckets" / "renders"
    (root / "taken").write_text("a file where a folder is wanted")
    os.symlink("/tmp", root / "away")
    for path in ("gs://renders/taken/x", "gs://renders/away/x"):
        found = error(post(site, output_path=path))
        assert found["field"] == "output_path" and "can be written" in found["message"]
    assert nothing_is_stored(site)


def test_the_check_of_an_output_path_leaves_no_files(site: ApiClient) -> None:
    root = site.context.data / "buckets" / "renders"
    before = sorted(root.rglob("*"))
    accepted(site, output_path="gs://renders/new/deep")
    assert sorted(root.rglob("*")) == before


def test_a_granted_file_destination_is_accepted(site: ApiClient) -> None:
    folder = site.context.data.parent / "given"
    folder.mkdir()
    url = f"file://{folder}"
    site.context.db.write_now(lambda tx: destinations.grant(tx, site.account_id, url))
    assert accepted(site, output_path=f"{url}/shot")["output_url"] == f"{url}/shot"
    assert error(post(site, output_path=f"{url}er/shot"))["field"] == "output_path"


def test_another_accounts_destination_is_not_named(site: ApiClient, other: ApiClient) -> None:
    site.context.db.write_now(lambda tx: destinations.grant(tx, other.account_id, "gs://secret"))
    assert "secret" not in error(post(site, output_path="gs://mine/x"))["message"]


def test_a_dry_run_stores_nothing(site: ApiClient) -> None:
    site.upload()
    audits = len(site.rows(audit))
    answer = site.ask("POST", "/api/jobs?dry_run=true", json=site.payload(scout_frames="fml:3", chunk_size=3))
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert (plan["dry_run"], plan["frames"], plan["scouts"], plan["tasks"]) == (True, 9, 3, 5)
    assert plan["missing_paths"] == [] and plan["price_per_hour"]["currency"] == "USD"
    assert nothing_is_stored(site)
    assert len(site.rows(audit)) == audits
    assert accepted(site)["warnings"] == []


def test_a_dry_run_reports_bad_fields(site: ApiClient) -> None:
    answer = site.ask("POST", "/api/jobs?dry_run=true", json=site.payload(chunk_size=0))
    assert error(answer)["field"] == "chunk_size"


def test_every_field_of_a_submission_has_a_rule_tested_here() -> None:
    tested = {name.split(".")[0].split("[")[0] for _, _, name, _ in REFUSED}
    assert tested | {"scene", *REQUIRED} >= set(JobSubmission.model_fields)


def test_the_api_document_shows_what_can_be_submitted(site: ApiClient) -> None:
    document = site.get("/api/openapi.json")
    body = document["paths"]["/api/jobs"]["post"]["requestBody"]
    assert body["required"] is True
    schema = body["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/JobSubmission"}
    assert set(document["components"]["schemas"]["JobSubmission"]["required"]) == set(REQUIRED)
