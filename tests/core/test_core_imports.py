"""The core imports only a few modules of the standard library: none that does I/O or tells the time."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.core import errors

FILES = sorted(Path(errors.__file__).parent.glob("*.py"))
ALLOWED = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "enum", "hashlib", "itertools",
    "math", "re", "typing", "unicodedata",
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_core_imports_only_allowed_modules(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    foreign = {name for name in imported if not name.startswith("framefarm.core")}
    assert foreign <= ALLOWED
