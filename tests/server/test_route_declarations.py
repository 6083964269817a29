"""Routes that take an Idempotency-Key are those whose declaration publishes it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
FILES = sorted(SERVER.glob("*/routes.py"))


def key_takers(source: str) -> tuple[set[str], set[str]]:
    """Functions that run their work by `command`, and functions declared to take an Idempotency-Key."""
    running, declared = set(), set()
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any(
            isinstance(call, ast.Call) and ast.unparse(call.func) in {"command", "idempotency.command"}
            for call in ast.walk(node)
        ):
            running.add(node.name)
        if any("openapi_extra=TAKES_KEY" in ast.unparse(mark) for mark in node.decorator_list):
            declared.add(node.name)
    return running, declared


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.parent.name)
def test_routes_with_an_idempotency_key_are_the_documented_ones(path: Path) -> None:
    running, declared = key_takers(path.read_text())
    assert running == declared


def test_some_routes_take_an_idempotency_key() -> None:
    assert sum(len(key_takers(path.read_text())[0]) for path in FILES) >= 8
