"""Write `src/framefarm/server/rows.py`, the row classes of tables. Run it after a change of a table:

.venv/bin/python script/make_rows.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import sqlalchemy as sa

from framefarm.server import schema
from framefarm.server.database import EnumText

TARGET = Path(schema.__file__).with_name("rows.py")
CLASSES = {
    "accounts": "AccountRow", "users": "UserRow", "tokens": "TokenRow", "projects": "ProjectRow",
    "instance_types": "InstanceTypeRow", "packages": "PackageRow", "output_places": "DestinationRow",
    "jobs": "JobRow", "job_state": "JobStateRow", "job_dependencies": "DependencyRow", "tasks": "TaskRow",
    "events": "EventRow", "sessions": "SessionRow", "leases": "LeaseRow", "attempts": "AttemptRow",
    "frames": "FrameRow", "files": "FileRow", "progress": "ProgressRow", "leaders": "LeaderRow",
    "nodes": "NodeRow", "contents": "ContentRow", "manifests": "ManifestRow",
    "ledger_transactions": "LedgerTransactionRow", "budgets": "BudgetRow",
    "reservations": "ReservationRow", "budget_holds": "BudgetHoldRow", "wrangler_rules": "RuleRow",
    "wrangler_actions": "RuleActionRow", "webhooks": "WebhookRow", "webhook_deliveries": "DeliveryRow",
    "mails": "MailRow", "idempotency": "IdempotencyRow",
}  # fmt: skip
WITHOUT_CLASS = {
    "audit",
    "instance_switches",
    "registrations",
    "manifest_contents",
    "missing_paths",
    "ledger_postings",
    "reader_positions",
}
"""Tables whose rows are never read whole."""
CHANGED_IN_MEMORY = {"job_state", "sessions", "attempts", "nodes"}
"""Rows that are locked, changed in memory and written back once; their classes are not frozen."""
HEAD = '''"""Row classes of tables, with one field for each column. Written by script/make_rows.py.

`Tx.rows(JobRow, query)` makes them of a query; a test compares this file with the tables. Rows of
`job_state`, `sessions`, `attempts` and `nodes` are not frozen: they are locked, changed in memory and written
back once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

{imports}
from framefarm.server.json_types import Json
'''


def python_type(column: sa.Column[object]) -> str:
    """The annotation of a column's field. `info={"row": …}` of the column wins."""
    kind = column.type
    if "row" in column.info:
        name = str(column.info["row"])
    elif isinstance(kind, EnumText):
        name = kind.members.__name__
    elif isinstance(kind, sa.JSON):
        return "Json"
    else:
        name = kind.python_type.__name__
    return f"{name} | None" if column.nullable else name


def text() -> str:
    """The whole module."""
    tables = schema.metadata.tables
    enums: dict[str, set[str]] = {}
    classes = []
    for table_name, class_name in CLASSES.items():
        table = tables[table_name]
        for column in table.columns:
            if isinstance(column.type, EnumText):
                members = column.type.members
                enums.setdefault(members.__module__, set()).add(members.__name__)
        arguments = "slots=True" if table_name in CHANGED_IN_MEMORY else "frozen=True, slots=True"
        fields = "".join(f"    {c.name}: {python_type(c)}\n" for c in table.columns)
        classes.append(f"\n\n@dataclass({arguments})\nclass {class_name}:\n{fields}")
    missing = sorted(set(tables) ^ (set(CLASSES) | WITHOUT_CLASS))
    if missing:
        raise SystemExit(
            f"script/make_rows.py must say for each table whether its rows have a class: {', '.join(missing)}"
        )
    imports = "\n".join(f"from {m} import {', '.join(sorted(names))}" for m, names in sorted(enums.items()))
    return HEAD.replace("{imports}", imports) + "".join(classes)


if __name__ == "__main__":
    TARGET.write_text(text())
    sys.stdout.write(f"{TARGET} is written.\n")
