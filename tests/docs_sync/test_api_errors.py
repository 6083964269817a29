"""The errors shown in docs/api.md are those of a real farm: the same fields, texts and values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

sys.path.append(str(Path(__file__).parents[1] / "server"))  # the farm in this process, and its client

from api_client import ApiClient, a_farm, a_site

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
REQUEST_ID = re.compile(r"req_[0-9a-f]{24}")


def bad_submission(site: ApiClient) -> httpx2.Response:
    return site.ask("POST", "/api/jobs", json=site.payload(chunk_size=0, blender_version="blender-2-8"))


def running_job_deleted(site: ApiClient) -> httpx2.Response:
    job: str = site.submit()["id"]
    assert site.runner(job).sync().tasks
    assert site.status(job) == "running"
    return site.ask("DELETE", f"/api/jobs/{job}")


REQUESTS: dict[int, Callable[[ApiClient], httpx2.Response]] = {
    422: bad_submission,
    409: running_job_deleted,
}
"""Status of an error that the page shows → the request that is answered with it."""


def documented_errors() -> dict[int, dict[str, Any]]:
    blocks = re.findall(r'```json\n(\{\s*"type": "about:blank".*?)```', PAGE, re.DOTALL)
    errors = [json.loads(block) for block in blocks]
    assert len({error["status"] for error in errors}) == len(errors), "two examples of one status"
    return {error["status"]: error for error in errors}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    with a_farm(tmp_path_factory.mktemp("farm"), None) as context, a_site(context) as made:
        yield made


def test_every_documented_error_is_asked_for() -> None:
    assert set(documented_errors()) == set(REQUESTS)


@pytest.mark.parametrize("status", REQUESTS)
def test_a_documented_error_is_the_farms_answer(site: ApiClient, status: int) -> None:
    documented = documented_errors()[status]
    answer = REQUESTS[status](site)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    given = answer.json()
    for error in (documented, given):
        assert REQUEST_ID.fullmatch(error.pop("request_id"))
    assert given == documented
    assert list(given) == list(documented)
