"""Only the room that defines a table writes it; the exceptions are listed, and the list only shrinks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framefarm.server import schema

SERVER = Path(schema.__file__).parent
FILES = sorted(p for p in SERVER.rglob("*.py") if "migrations" not in p.parts)
WRITES = {"insert", "update", "delete"}
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
    # Retention removes rows of every room.
    ("events/service.py", "events"),
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


def foreign_tables(tree: ast.Module, room: str) -> dict[str, str]:
    """Names in a module that stand for tables of other rooms."""
    return {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("framefarm.server.")
        and (node.module or "").endswith(".tables")
        and (node.module or "").split(".")[2] != room
        for alias in node.names
        if alias.name in schema.metadata.tables or alias.name.islower()
    }


def writes(source: str, room: str) -> set[str]:
    """Tables of other rooms that the module inserts into, updates or deletes from."""
    tree = ast.parse(source)
    foreign = foreign_tables(tree, room)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) in WRITES | {"upsert"}:
            found |= {foreign[a.id] for a in node.args if isinstance(a, ast.Name) and a.id in foreign}
    return found


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


@pytest.mark.parametrize(
    ("source", "room", "expected"),
    [
        ("sa.update(j).where(j.c.id == 1)", "files", {"jobs"}),
        ("farmwide(sa.delete(j))", "files", {"jobs"}),
        ("insert(tx, j)", "files", {"jobs"}),
        ("sa.select(j)", "files", set()),
        ("sa.update(j)", "jobs", set()),
    ],
)
def test_the_lint_finds_writes_of_other_rooms(source: str, room: str, expected: set[str]) -> None:
    assert writes(IMPORT + source, room) == expected
