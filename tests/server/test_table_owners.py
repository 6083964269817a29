"""Only the room that defines a table writes it; the exceptions are listed, and the list only shrinks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
FILES = sorted(p for p in SERVER.rglob("*.py") if "migrations" not in p.parts)
WRITES = {"insert", "update", "delete", "upsert"}
EXCEPTIONS = {
    # A rule makes a job on demand.
    ("wrangler/rule_engine.py", "jobs"),
    # The leader writes sessions and moves all leases at once.
    ("budgets/snapshot.py", "sessions"),
    ("dispatch/dispatcher.py", "leases"),
    ("dispatch/dispatcher.py", "sessions"),
    ("dispatch/leader.py", "leases"),
    # Attempts are the meter: a charge marks those that it posts.
    ("billing/service.py", "attempts"),
    # Publishing marks files.
    ("outputs/publisher.py", "files"),
    # Retention removes rows of every room; `?`: of tables in a list.
    ("events/service.py", "events"),
    ("retention/deleted_jobs.py", "?"),
    ("retention/expired_rows.py", "?"),
    ("retention/deleted_jobs.py", "jobs"),
    ("retention/expired_content.py", "contents"),
    ("retention/expired_content.py", "manifest_contents"),
    ("retention/expired_content.py", "manifests"),
    ("retention/expired_content.py", "registrations"),
    # The operator's command.
    ("operator/commands.py", "accounts"),
}
"""(module, table of another room) that writes it all the same. Take an entry out once it is not needed."""


def room_of(path: Path) -> str:
    return path.relative_to(SERVER).parts[0].removesuffix(".py")


def known_tables(tree: ast.Module, room: str) -> dict[str, set[str]]:
    """Expressions in a module that stand for tables → their names, or nothing for tables of its own room."""
    known: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("framefarm.server."):
            continue
        parts = (node.module or "").split(".")
        for alias in node.names:
            name = alias.asname or alias.name
            if parts[-1] == "tables":
                known[name] = set() if parts[2] == room else {alias.name}
            elif alias.name == "tables":
                owned = parts[2] == room
                known |= {f"{name}.{t}": set() if owned else {t} for t in schema.metadata.tables}
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension):
            looped = {t for part in ast.walk(node.iter) for t in known.get(_text(part), ())}
            targets = [part for part in ast.walk(node.target) if isinstance(part, ast.Name)]
            known |= {target.id: looped for target in targets if looped}
        elif isinstance(node, ast.Assign) and _text(node.value) in known:
            known |= {_text(target): known[_text(node.value)] for target in node.targets}
    return known


def writes(source: str, room: str) -> set[str]:
    """Tables of other rooms that the module inserts into, updates or deletes from.

    `?` stands for a table that only shows when the statement runs.
    """
    tree = ast.parse(source)
    known = known_tables(tree, room)
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or _called(node.func) not in WRITES:
            continue
        written = [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(node.func, ast.Attribute):
            written.append(node.func.value)
        found = found.union(*(known.get(_text(part), set()) for part in written))
        if ast.unparse(node.func).startswith("sa.") and not any(_text(part) in known for part in written):
            found.add("?")
    return found


def _text(node: ast.expr | ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def test_only_the_owning_room_writes_a_table() -> None:
    found = {
        (str(path.relative_to(SERVER)), table)
        for path in FILES
        for table in writes(path.read_text(), room_of(path))
    }
    assert sorted(found - EXCEPTIONS) == [], "another room's table is written: give its owner a function"
    assert sorted(EXCEPTIONS - found) == [], "no longer needed: take it out of EXCEPTIONS"


IMPORT = "from framefarm.server.jobs.tables import jobs as j\n"
MODULE = "from framefarm.server.jobs import tables as t\n"


@pytest.mark.parametrize(
    ("source", "room", "expected"),
    [
        (IMPORT + "sa.update(j).where(j.c.id == 1)", "files", {"jobs"}),
        (IMPORT + "farmwide(sa.delete(j))", "files", {"jobs"}),
        (IMPORT + "insert(tx, j)", "files", {"jobs"}),
        (IMPORT + "insert(tx, table=j)", "files", {"jobs"}),
        (IMPORT + "j.update().where(j.c.id == 1)", "files", {"jobs"}),
        (IMPORT + "for x, key in ((j, 1),):\n    sa.delete(x)", "files", {"jobs"}),
        (IMPORT + "x = j\nsa.delete(x)", "files", {"jobs"}),
        (MODULE + "sa.update(t.jobs)", "files", {"jobs"}),
        (MODULE + "sa.update(t.jobs)", "jobs", set()),
        (IMPORT + "sa.delete(rule.table)", "files", {"?"}),
        (IMPORT + "sa.select(j)", "files", set()),
        (IMPORT + "sa.update(j)", "jobs", set()),
    ],
)
def test_the_lint_finds_writes_of_other_rooms(source: str, room: str, expected: set[str]) -> None:
    assert writes(source, room) == expected
