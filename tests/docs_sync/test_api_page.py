"""The examples in docs/api.md have exactly the fields of the models; its table those of a submission."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from framefarm.core import frame_grammar as grammar
from framefarm.core.frames import FrameSet
from framefarm.protocol import (
    api_accounts,
    api_billing,
    api_budgets,
    api_catalog,
    api_files,
    api_jobs,
    api_wrangler,
)
from framefarm.server.http.errors import STATUS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
EXAMPLES: list[tuple[str, list[type[BaseModel]]]] = [
    ("Log in", [api_accounts.Login, api_accounts.Session, api_accounts.NewKey]),
    ("Projects", [api_catalog.Project]),
    ("Instances", [api_catalog.Instance]),
    ("Packages", [api_catalog.Package]),
    ("Files", [api_files.Exists, api_files.Uploaded]),
    ("Submit a job", [api_jobs.DryRun]),
    ("Look at jobs", [api_jobs.JobDetail]),
    ("Retry", [api_jobs.Retried]),
    ("Tasks", [api_jobs.JobTask]),
    ("Frames", [api_jobs.JobFrame]),
    ("Attempts", [api_jobs.JobAttempt]),
    ("Billing", [api_billing.CurrentPeriod, api_billing.Transaction]),
    ("Budgets", [api_budgets.Budget]),
    ("Wrangler rules", [api_wrangler.Rule]),
]


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _examples(title: str) -> list[Any]:
    blocks = re.findall(r"```json\n(.*?)```", _section(title), re.DOTALL)
    if title == "Look at jobs":
        blocks = ["".join(blocks)]
    return [json.loads(block) for block in blocks]


@pytest.mark.parametrize(("title", "models"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_examples_have_the_models_fields(title: str, models: list[type[BaseModel]]) -> None:
    examples = _examples(title)
    assert len(examples) >= len(models)
    for example, model in zip(examples, models, strict=False):
        model.model_validate(example)
        assert set(example) == set(model.model_fields)


def test_the_smallest_job_has_exactly_the_required_fields() -> None:
    job = _examples("Submit a job")[1]
    api_jobs.JobSubmission.model_validate(job)
    assert set(job) == {n for n, f in api_jobs.JobSubmission.model_fields.items() if f.is_required()}


def test_every_field_of_a_submission_is_in_the_table_with_its_default() -> None:
    documented: dict[str, str] = {}
    for names, default in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\S+) ", _section("Submit a job"), re.M):
        documented |= dict.fromkeys(re.findall(r"\w+", names), default)
    assert set(documented) == set(api_jobs.JobSubmission.model_fields)
    for name, field in api_jobs.JobSubmission.model_fields.items():
        if field.is_required():
            assert documented[name] == "*required*", name
        elif name != "scene_path":  # its default is described in words
            assert json.loads(documented[name].strip("`")) == field.default, name


def test_the_frame_examples_are_right() -> None:
    rows = re.findall(
        r"^\| `([^`]+)`(?: of (\d+)–(\d+))? \| ([-\d, ]+?)[:;|]", _section("Frames and ranges"), re.M
    )
    assert len(rows) >= 7
    for spec, first, last, said in rows:
        parsed = grammar.parse(spec)
        if isinstance(parsed, grammar.Pick):
            parsed = parsed.of(FrameSet.of(range(int(first), int(last) + 1)))
        assert list(parsed) == [int(n) for n in said.split(",")], spec


def test_every_status_of_the_error_table_is_explained() -> None:
    explained = set(re.findall(r"^\| (\d{3}) \|", _section("Errors"), re.M))
    assert {str(s) for s in STATUS.values()} <= explained
