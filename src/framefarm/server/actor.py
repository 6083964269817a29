"""The authenticated caller of a request, as services know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from framefarm.core.errors import NotAllowed

Role = Literal["admin", "member", "read"]


@dataclass(frozen=True, slots=True)
class Actor:
    """A caller whose token was checked, with the role that the token has."""

    account_id: str
    user_id: str
    role: Role
    email: str
    token_id: str
    token_kind: Literal["login", "key"]
    request_id: str = ""

    @property
    def name(self) -> str:
        """Name in events and audit rows: `user:a@b.c`, or `key:a@b.c` for a key of that user."""
        return f"{'user' if self.token_kind == 'login' else 'key'}:{self.email}"

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def must_write(self) -> None:
        """Raises NotAllowed for a read-only key."""
        if self.role == "read":
            raise NotAllowed("This key may only read.")

    def must_admin(self) -> None:
        """Raises NotAllowed for anyone but an account's admin."""
        if self.role != "admin":
            raise NotAllowed("Only an admin of the account may do this.")
