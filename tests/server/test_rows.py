"""Row classes are those of the tables, and each is used."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "src" / "framefarm" / "server" / "rows.py"


def test_row_classes_are_as_the_tables(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_rows", ROOT / "script" / "make_rows.py")
    assert spec is not None and spec.loader is not None
    make_rows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_rows)
    made = tmp_path / "rows.py"
    made.write_text(make_rows.text())
    formatted = [sys.executable, "-m", "ruff", "format", "--quiet", "--config", ROOT / "pyproject.toml", made]
    subprocess.run(formatted, check=True)
    assert ROWS.read_text() == made.read_text(), "run .venv/bin/python script/make_rows.py"


@pytest.mark.parametrize("name", re.findall(r"^class (\w+):", ROWS.read_text(), re.M))
def test_each_row_class_is_used(name: str) -> None:
    sources = (p for p in ROWS.parent.rglob("*.py") if p != ROWS)
    assert any(re.search(rf"\b{name}\b", p.read_text()) for p in sources)
