"""server/rows.py is the text that script/make_rows.py makes of the tables."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_row_classes_are_those_of_the_tables() -> None:
    program = runpy.run_path(str(ROOT / "script" / "make_rows.py"))
    written = (ROOT / "src" / "framefarm" / "server" / "rows.py").read_text()
    assert written == program["text"](), "run: .venv/bin/python script/make_rows.py"
