"""Tenant scoping: the one place where a statement is bound to an account.

Each `select`, `update` or `delete` over a table with an `account_id` is wrapped by `scoped` or `farmwide`.
A module that works farm-wide as a whole, for the leader or the operator, states so once instead, with the
reason: `FARM_WIDE = "Retention removes what is due of all accounts."` No route may import such a module, not
even over other modules. `tests/server/test_tenancy_lint.py` checks all of this in the syntax trees.
"""

from __future__ import annotations

from typing import Any, TypeVar

import sqlalchemy as sa

S = TypeVar("S", "sa.Select[Any]", sa.Update, sa.Delete)


def scoped(statement: S, table: sa.FromClause, account_id: str) -> S:
    """`statement` over `table`, restricted to the rows of one account."""
    return statement.where(table.c.account_id == account_id)


def farmwide(statement: S) -> S:
    """`statement`, unchanged. It may touch rows of all accounts, for the farm itself or the operator; or its
    keys were scoped before in the same unit of work."""
    return statement
