"""Tenant scoping: the one place where a statement is bound to an account.

Every `select`, `update` or `delete` over a table with an `account_id` is wrapped by one of these two.
A test walks the syntax tree of all services and fails where one is not.
"""

from __future__ import annotations

from typing import Any, TypeVar

import sqlalchemy as sa

S = TypeVar("S", "sa.Select[Any]", sa.Update, sa.Delete)


def scoped(statement: S, table: sa.FromClause, account_id: str) -> S:
    """`statement` over `table`, restricted to the rows of one account."""
    return statement.where(table.c.account_id == account_id)


def farmwide(statement: S) -> S:
    """The farm's own work, or an operator's: deliberately across accounts, or on a key that was scoped
    before in the same unit of work."""
    return statement
