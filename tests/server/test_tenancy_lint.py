"""Every statement over a table with an `account_id` names the accounts whose rows it may touch.

A statement is wrapped by `scoped` or `farmwide` (`server/tenancy.py`), or its whole module is farm-wide: a
module constant `FARM_WIDE` states the reason. No route may reach a farm-wide module by its imports.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
SOURCES = SERVER.parent.parent
TENANT_TABLES = {name for name, table in schema.metadata.tables.items() if "account_id" in table.c}
VERBS = {"select", "update", "delete"}
WRAPPERS = {"scoped", "farmwide"}
FILES = sorted(p for p in SERVER.rglob("*.py") if "migrations" not in p.parts and p.name != "tenancy.py")


# ------------------------------------------------------------------------- statements


def tables_of(tree: ast.Module) -> dict[str, str]:
    """Names in a module that stand for a table: `from ….tables import accounts as accounts_table`."""
    return {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(".tables")
        for alias in node.names
        if alias.name in TENANT_TABLES
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


def farm_wide_reason(tree: ast.Module) -> str | None:
    """The module's constant `FARM_WIDE`; None where a module has none, or only blanks."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names == ["FARM_WIDE"] and isinstance(node.value.value, str):
                return node.value.value.strip() or None
    return None


def unbound(source: str) -> list[tuple[int, set[str]]]:
    """(line, tables) of statements that mention a tenant's table and are inside no wrapper.

    A statement that is given a name first may be wrapped where that name is used, in the same function.
    A farm-wide module has none.
    """
    tree = ast.parse(source)
    if farm_wide_reason(tree) is not None:
        return []
    known = tables_of(tree)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        if not is_statement(node):
            continue
        inside, function, target, whole = False, None, None, node
        ancestor: ast.AST | None = node
        while ancestor is not None:
            inside = inside or is_wrapper(ancestor)
            if (
                isinstance(ancestor, ast.Assign)
                and target is None
                and isinstance(ancestor.targets[0], ast.Name)
            ):
                target = ancestor.targets[0].id
            if isinstance(ancestor, ast.FunctionDef | ast.AsyncFunctionDef) and function is None:
                function = ancestor
            if isinstance(ancestor, ast.Attribute | ast.Call) and function is None and target is None:
                whole = ancestor
            ancestor = parents.get(ancestor)
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
        ("FARM_WIDE = 'a reason'\nsa.select(j)", []),
        ("FARM_WIDE = ' '\nsa.select(j)", [3]),
        ("FARM_WIDE = True\nsa.select(j)", [3]),
        ("def f():\n    FARM_WIDE = 'a reason'\n    sa.select(j)", [4]),
    ],
)
def test_the_lint_finds_unwrapped_statements(source: str, lines: list[int]) -> None:
    assert [line for line, _ in unbound(IMPORT + source)] == lines


# ------------------------------------------------------------------ farm-wide modules


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): ast.parse(path.read_text()) for path in FILES}


def is_routes(name: str, tree: ast.Module) -> bool:
    """Whether a module has routes: by its name, or by an `APIRouter`."""
    return name.endswith(".routes") or any(
        isinstance(node, ast.Name) and node.id == "APIRouter" for node in ast.walk(tree)
    )


def imports_of(tree: ast.Module) -> set[str]:
    """Names of the server's modules that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(MODULES)


def import_chain(start: str, targets: set[str]) -> list[str]:
    """Modules from `start` to one of the targets, each importing the next; empty where there is no way."""
    chains = [[start]]
    seen = {start}
    while chains:
        chain = chains.pop()
        if chain[-1] in targets:
            return chain
        new = imports_of(MODULES[chain[-1]]) - seen
        seen |= new
        chains += [[*chain, name] for name in new]
    return []


FARM_WIDE_MODULES = {name for name, tree in MODULES.items() if farm_wide_reason(tree) is not None}
ROUTE_MODULES = sorted(name for name, tree in MODULES.items() if is_routes(name, tree))


@pytest.mark.parametrize("name", ROUTE_MODULES)
def test_no_route_reaches_a_farm_wide_module(name: str) -> None:
    assert import_chain(name, FARM_WIDE_MODULES) == []


@pytest.mark.parametrize("name", sorted(FARM_WIDE_MODULES))
def test_a_farm_wide_module_does_not_also_wrap_its_statements(name: str) -> None:
    names = {
        alias.name for n in ast.walk(MODULES[name]) if isinstance(n, ast.ImportFrom) for alias in n.names
    }
    assert "farmwide" not in names


def test_import_chains_are_found_over_other_modules() -> None:
    chain = import_chain("framefarm.server.accounts.routes", {"framefarm.server.accounts.tables"})
    assert (chain[0], chain[-1]) == ("framefarm.server.accounts.routes", "framefarm.server.accounts.tables")
    assert len(chain) > 2
    assert import_chain("framefarm.server.accounts.routes", {"framefarm.server.app"}) == []
    assert "framefarm.server.operator.commands" in FARM_WIDE_MODULES
    assert {"framefarm.server.accounts.routes", "framefarm.server.health"} <= set(ROUTE_MODULES)
