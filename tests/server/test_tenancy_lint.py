"""No statement over a tenant's table without a word on whose rows it may touch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
TENANT = {name for name, table in schema.metadata.tables.items() if "account_id" in table.c}
VERBS = {"select", "update", "delete"}
WRAPPERS = {"scoped", "farmwide"}
FILES = sorted(p for p in SERVER.rglob("*.py") if "migrations" not in p.parts and p.name != "tenancy.py")


def tables_of(tree: ast.Module) -> dict[str, str]:
    """Names in a module that stand for a table: `from ….tables import accounts as accounts_table`."""
    return {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(".tables")
        for alias in node.names
        if alias.name in TENANT
    }


def mentioned(node: ast.AST, known: dict[str, str]) -> set[str]:
    return {known[n.id] for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in known}


def is_statement(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in VERBS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "sa"
    )


def is_wrapper(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WRAPPERS


def unbound(source: str) -> list[tuple[int, set[str]]]:
    """(line, tables) of statements that mention a tenant's table and are inside no wrapper.

    A statement that is given a name first may be wrapped where that name is used, in the same function.
    """
    tree = ast.parse(source)
    known = tables_of(tree)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        if not is_statement(node):
            continue
        inside, function, target, whole = False, None, None, node
        here: ast.AST | None = node
        while here is not None:
            inside = inside or is_wrapper(here)
            if isinstance(here, ast.Assign) and target is None and isinstance(here.targets[0], ast.Name):
                target = here.targets[0].id
            if isinstance(here, ast.FunctionDef | ast.AsyncFunctionDef) and function is None:
                function = here
            if isinstance(here, ast.Attribute | ast.Call) and function is None and target is None:
                whole = here
            here = parents.get(here)
        tables = mentioned(whole, known)
        if inside or not tables or (function is not None and target and wrapped_later(function, target)):
            continue
        found.append((node.lineno, tables))
    return found


def wrapped_later(function: ast.AST, name: str) -> bool:
    return any(
        is_wrapper(node) and any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))
        for node in ast.walk(function)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVER)))
def test_every_statement_over_a_tenants_table_says_whose_rows(path: Path) -> None:
    assert unbound(path.read_text()) == []


IMPORT = "from framefarm.server.jobs.tables import jobs as j\n"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("sa.select(j)", [2]),
        ("sa.update(j).where(j.c.id == 1)", [2]),
        ("sa.select(sa.func.count()).select_from(j)", [2]),
        ("sa.select(1).join(j)", [2]),
        ("farmwide(sa.select(j))", []),
        ("scoped(sa.delete(j), j, 'acc')", []),
        ("def f():\n    q = sa.select(j)\n    return scoped(q, j, 'acc')", []),
        ("def f():\n    q = sa.select(j)\n    return q", [3]),
        ("sa.select(other)", []),
    ],
)
def test_the_lint_finds_what_it_is_for(source: str, lines: list[int]) -> None:
    assert [line for line, _ in unbound(IMPORT + source)] == lines
