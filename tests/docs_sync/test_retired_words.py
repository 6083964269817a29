"""No name in the code has a part that docs/retired-words.txt lists, except those that it exempts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = (ROOT / "docs" / "retired-words.txt").read_text().splitlines()
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
WORD_LINE = re.compile(r"([a-z]+) -> \S.*")
EXEMPT_LINE = re.compile(r"exempt (\w+|--[\w-]+): \S.*")
FOLDERS = {"src": True, "tests": False, "chaos": False, "bench": False}
"""Folder → whether all names count, or only those of modules and classes."""
MIGRATIONS = ROOT / "src" / "framefarm" / "server" / "migrations" / "versions"


def parts(name: str) -> set[str]:
    """`LeaderLease`, `leader_lease` and `--leader-lease` alike: leader, lease."""
    return {part.lower() for part in PART.findall(name)}


def names_in(tree: ast.Module, everything: bool) -> Iterator[str]:
    """Names of classes; with `everything` also those of functions, parameters, fields, constants, options."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
        if not everything:
            continue
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.Constant(value=str() as text) if re.fullmatch(r"--[a-z][\w-]*", text):
                yield text
            case ast.ClassDef() | ast.Module():
                yield from targets(node)


def targets(node: ast.ClassDef | ast.Module) -> Iterator[str]:
    """Names that the body of a class or module assigns: fields, constants, type aliases."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            assigned = [statement.target]
        elif isinstance(statement, ast.Assign):
            assigned = statement.targets
        else:
            continue
        yield from (target.id for target in assigned if isinstance(target, ast.Name))


@pytest.fixture(scope="module")
def names() -> dict[str, set[str]]:
    """Name → the files that define it, as paths from the root."""
    files_of: dict[str, set[str]] = {}
    for folder, everything in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(MIGRATIONS):
                continue  # they are never changed
            file = str(path.relative_to(ROOT))
            own = {path.stem, path.parent.name, *names_in(ast.parse(path.read_text()), everything)}
            for name in own:
                files_of.setdefault(name, set()).add(file)
    return files_of


def retired() -> set[str]:
    return {line[1] for line in map(WORD_LINE.fullmatch, LIST) if line}


def exempt() -> set[str]:
    return {line[1] for line in map(EXEMPT_LINE.fullmatch, LIST) if line}


def test_every_line_of_the_list_is_understood() -> None:
    lines = [line for line in LIST if line and not line.startswith("#")]
    assert [x for x in lines if not WORD_LINE.fullmatch(x) and not EXEMPT_LINE.fullmatch(x)] == []
    assert len(lines) == len(retired()) + len(exempt()), "a line twice"
    assert retired()


def test_no_name_has_a_retired_word(names: dict[str, set[str]]) -> None:
    wrong = {
        f"{file}: {name}"
        for name, files in names.items()
        if parts(name) & retired() and name not in exempt()
        for file in files
    }
    assert sorted(wrong) == []


def test_every_exempt_name_is_needed(names: dict[str, set[str]]) -> None:
    assert [name for name in exempt() if name not in names or not parts(name) & retired()] == []


@pytest.mark.parametrize(
    ("source", "everything", "expected"),
    [
        ("class EdgeLimits:\n  seat: int\n  def leave(self, crowd): self.storm = 1", False, {"EdgeLimits"}),
        (
            "class EdgeLimits:\n  seat: int\n  def leave(self, *, crowd): self.storm = 1",
            True,
            {"EdgeLimits", "seat", "leave", "self", "crowd", "storm"},
        ),
        ("HANDOUT = 16\nx: str = typer.Option('--edge')", True, {"HANDOUT", "x", "--edge"}),
        ("def knowledge(): seat = 1", True, {"knowledge"}),
    ],
)
def test_the_names_of_a_module_are_found(source: str, everything: bool, expected: set[str]) -> None:
    assert set(names_in(ast.parse(source), everything)) == expected


def test_a_name_is_taken_apart_at_underscores_and_capitals() -> None:
    assert parts("commit_horizon") == parts("CommitHorizon") == parts("--commit-horizon")
    assert parts("HTTPError") == {"http", "error"}
    assert parts("knowledge") == {"knowledge"}
