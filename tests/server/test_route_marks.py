"""The marks of routes, which the OpenAPI document repeats, agree with the routes' code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
FILES = sorted(SERVER.glob("*/routes.py"))


def key_takers(source: str) -> tuple[set[str], set[str]]:
    """Functions that run their work by `command`, and functions marked to take an Idempotency-Key."""
    running, marked = set(), set()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any(
            isinstance(call, ast.Call) and ast.unparse(call.func) in {"command", "idempotency.command"}
            for call in ast.walk(node)
        ):
            running.add(node.name)
        if any(ast.unparse(mark) == "documents_idempotency_key" for mark in node.decorator_list):
            marked.add(node.name)
    return running, marked


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.parent.name)
def test_routes_with_an_idempotency_key_are_the_documented_ones(path: Path) -> None:
    running, marked = key_takers(path.read_text())
    assert running == marked


def test_some_routes_take_an_idempotency_key() -> None:
    assert sum(len(key_takers(path.read_text())[0]) for path in FILES) >= 8
