"""The published OpenAPI document against the reference's table, and the running farm against the document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running_farm import RunningFarm

REFERENCE = """
GET    /api/jobs
GET    /api/jobs/{id}
POST   /api/jobs
PATCH  /api/jobs/{id}
DELETE /api/jobs/{id}
GET    /api/projects
POST   /api/projects
PATCH  /api/projects/{id}
GET    /api/enterprise/instances
GET    /api/packages
POST   /api/uploads/md5
POST   /api/uploads/file
GET    /api/billing/current-period
GET    /api/billing/transactions
POST   /api/auth/login
"""
"""The table of the API reference."""
PAYLOAD = {
    "job_title": "string", "project": "string", "instance_type": "string", "preemptible": "boolean",
    "preemptible_retries": "integer", "chunk_size": "integer", "frame_range": "string",
    "scout_frames": "string", "blender_version": "string", "render_software": "string",
    "output_path": "string", "upload_paths": "array", "environment_variables": "object",
}  # fmt: skip
"""The job submission payload of the reference: every field and its type."""
REQUIRED = {
    "job_title", "project", "instance_type", "frame_range", "blender_version", "output_path", "upload_paths"
}  # fmt: skip


@pytest.fixture(scope="module")
def document(farm: RunningFarm) -> dict[str, Any]:
    document: dict[str, Any] = farm.client.get("/api/openapi.json").json()
    return document


@pytest.fixture(scope="module")
def ids(farm: RunningFarm) -> dict[str, Any]:
    """Ids of existing objects, for the parameters of paths."""
    job = farm.submit(frame_range="1-2", output_path="gs://renders/openapi")
    farm.wait(job["id"], "success")
    member = {"email": "member@studio.example", "password": "correct horse battery", "role": "member"}
    return {
        "job_id": job["id"],
        "number": 0,
        "user_id": farm.client.post("/api/users", json=member).json()["id"],
        "instance_id": "local-1",
        "project_id": farm.all("/api/projects")[0]["id"],
    }


def schemathesis(farm: RunningFarm, tmp_path: Path, *options: str, **parameters: Any) -> None:
    """Run schemathesis with the same requests every time. Fails with its output."""
    config = tmp_path / "schemathesis.toml"
    lines = [f"{json.dumps('path.' + name)} = {json.dumps(value)}" for name, value in parameters.items()]
    config.write_text("\n".join(["[parameters]", *lines]) + "\n")
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config),
        "run", f"{farm.client.base_url}/api/openapi.json",
        "--header", f"Authorization: {farm.client.headers['Authorization']}",
        "--checks", "all",
        # Values that no schema can describe (an existing project, a valid cursor) may be refused.
        "--exclude-checks", "positive_data_acceptance",
        "--max-examples", "5", "--seed", "4", "--generation-deterministic",
        "--exclude-path-regex", "/events$",  # streams, which do not end
        "--continue-on-failure", "--warnings", "off", "--no-color", *options,
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2000:]
    assert farm.client.get("/api/auth/me").status_code == 200, "the login did not outlive it"


def test_every_call_of_the_reference_is_published(document: dict[str, Any]) -> None:
    named = {
        (method.upper(), "/".join("{id}" if p.startswith("{") else p for p in path.split("/")))
        for path, operations in document["paths"].items()
        for method in operations
    }
    wanted = {tuple(line.split()) for line in REFERENCE.strip().splitlines()}
    assert len(wanted) == 15
    assert wanted <= named


def test_the_payload_has_every_field_of_the_reference_with_its_type(document: dict[str, Any]) -> None:
    submission = document["components"]["schemas"]["JobSubmission"]
    assert {name: submission["properties"][name]["type"] for name in PAYLOAD} == PAYLOAD
    assert set(submission["required"]) == REQUIRED


def test_every_documented_error_is_a_problem(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            errors = {s: r for s, r in operation["responses"].items() if s >= "400"}
            assert "422" in errors, (method, path)
            for answer in errors.values():
                assert list(answer["content"]) == ["application/problem+json"], (method, path)


@pytest.mark.long
def test_the_farm_answers_as_its_document_says(
    farm: RunningFarm, ids: dict[str, Any], tmp_path: Path
) -> None:
    # These two would end the login that the other calls need.
    excluded = ["--exclude-path", "/api/auth/logout", "--exclude-path", "/api/users/{user_id}"]
    schemathesis(farm, tmp_path, *excluded)


@pytest.mark.long
def test_the_farm_answers_as_its_document_says_about_existing_objects(
    farm: RunningFarm, ids: dict[str, Any], tmp_path: Path
) -> None:
    named = ["--include-path-regex", r"\{(job_id|instance_id|project_id|user_id)\}"]
    schemathesis(farm, tmp_path, *named, "--exclude-method", "DELETE", "--phases", "coverage,fuzzing", **ids)
