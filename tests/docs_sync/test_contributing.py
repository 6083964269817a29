"""CONTRIBUTING.md and the commit hooks name the programs in script/, and the programs run each other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
PROGRAM = re.compile(r"\bscript/(\w+)\b(?!\.)")
PROGRAMS = {path.name for path in (ROOT / "script").iterdir() if os.access(path, os.X_OK) and path.is_file()}


def test_the_page_names_exactly_the_programs() -> None:
    assert set(PROGRAM.findall(PAGE)) == PROGRAMS


@pytest.mark.parametrize("page", ["README.md", "docs/developer.md", "docs/chaos.md", "docs/operator.md"])
def test_other_pages_name_only_programs(page: str) -> None:
    assert set(PROGRAM.findall((ROOT / page).read_text())) <= PROGRAMS


def test_every_program_runs_only_programs() -> None:
    for name in PROGRAMS:
        lines = (ROOT / "script" / name).read_text().splitlines()
        assert set(PROGRAM.findall("\n".join(lines))) <= PROGRAMS, name


def test_the_hooks_run_format_and_lint_and_download_nothing() -> None:
    assert re.findall(r"repo: *(\S+)", HOOKS) == ["local"]
    assert re.findall(r"entry: *(\S+)", HOOKS) == ["script/format", "script/lint"]


def test_the_whole_check_includes_lint() -> None:
    assert re.search(r"^script/lint$", (ROOT / "script" / "test").read_text(), re.MULTILINE)


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy", "lint-imports"])
def test_lint_runs_every_static_check(tool: str) -> None:
    assert f"\n.venv/bin/{tool}\n" in (ROOT / "script" / "lint").read_text()
