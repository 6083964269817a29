"""No function of the server takes or returns data without a type, but where a comment says why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
FILES = sorted(p for p in SERVER.rglob("*.py") if "migrations" not in p.parts and p.name != "json_types.py")
UNTYPED = {"Any", "dict[str, Any]", "list[Any]", "list[dict[str, Any]]"}


def untyped(source: str) -> list[str]:
    """`line: name` of parameters and returns of free type whose line ends without a comment."""
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        named = [(a.arg, a.annotation) for a in arguments] + [("return", node.returns)]
        for name, annotation in named:
            if annotation is None or not _is_free(annotation):
                continue
            if "#" not in lines[(annotation.end_lineno or annotation.lineno) - 1]:
                found.append(f"{annotation.lineno}: {node.name}({name})")
    return found


def _is_free(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.BinOp):
        return _is_free(annotation.left) or _is_free(annotation.right)
    return ast.unparse(annotation) in UNTYPED


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVER)))
def test_every_parameter_and_return_has_a_type(path: Path) -> None:
    assert untyped(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(row: Any) -> int: ...", 1),
        ("def f(row: dict[str, Any] | None) -> Any: ...", 2),
        ("def f(row: Any) -> int:  # free: a scene's own\n    ...", 0),
        ("def f(row: JobRow) -> Answer: ...", 0),
    ],
)
def test_the_lint_finds_untyped_data(source: str, count: int) -> None:
    assert len(untyped(source)) == count
