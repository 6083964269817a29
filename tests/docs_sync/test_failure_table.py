"""Every row of the operator's table of failures has a test of its name that is always run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
LEFT_OUT = {"skip", "skipif", "xfail", "importorskip"}


def rows() -> dict[str, list[tuple[str, str]]]:
    """The failure, in bold → the tests of its row, each as (file, name)."""
    page = (ROOT / "docs" / "operator.md").read_text()
    section = page.split("\n## Failures and their consequences\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| **")]
    return {line.split("**")[1]: TEST.findall(line.split(" | ")[-1]) for line in lines}


def test_every_row_has_five_cells_and_a_test_of_its_name() -> None:
    page = (ROOT / "docs" / "operator.md").read_text()
    assert {line.count(" | ") for line in page.splitlines() if line.startswith("| **")} == {4}
    tests_of = rows()
    assert len(tests_of) > 25
    for failure, tests in tests_of.items():
        name = "test_" + re.sub(r"\W+", "_", failure.lower())
        assert any(test == name or test.startswith(f"{name}_") for _, test in tests), failure


def test_every_test_that_a_row_names_is_collected() -> None:
    named = {f"{file}::{test}" for tests in rows().values() for file, test in tests}
    files = sorted({name.partition("::")[0] for name in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    collected = {line.partition("[")[0] for line in listing.stdout.splitlines()}
    assert sorted(named - collected) == [], listing.stdout[-2000:] + listing.stderr[-2000:]


def test_no_test_that_a_row_names_can_be_left_out() -> None:
    """Neither the test nor its module nor a fixture of it is marked as skipped or expected to fail."""
    for tests in rows().values():
        for file, test in tests:
            functions, shared = _parts(ROOT / file)
            reached, waiting = set(), [test]
            while waiting:
                name = waiting.pop()
                if name in reached or name not in functions:
                    continue
                reached.add(name)
                body = functions[name]
                assert not _words(body) & LEFT_OUT, f"{file}: {name}"
                waiting += [a.arg for a in (*body.args.args, *body.args.kwonlyargs)]
                waiting += [str(c.value) for c in ast.walk(body) if isinstance(c, ast.Constant)]
            assert not _words(shared) & LEFT_OUT, file


def _parts(path: Path) -> tuple[dict[str, ast.FunctionDef | ast.AsyncFunctionDef], ast.Module]:
    """(functions of a test file and of the conftests above it, by name; all other statements of the file)."""
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for file in (ROOT / "tests/conftest.py", path.parent / "conftest.py", path):
        body = ast.parse(file.read_text()).body if file.exists() else []
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions |= {node.name: node for node in body if isinstance(node, kinds)}
    rest = [n for n in ast.parse(path.read_text()).body if not isinstance(n, (*kinds, ast.ClassDef))]
    return functions, ast.Module(rest, [])


def _words(tree: ast.AST) -> set[str]:
    return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} | {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
    }
