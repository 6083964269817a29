"""Exceptions of the farm. `server/http/errors.py` maps them to HTTP statuses.

FarmError
├── InvalidInput       bad input, with every bad field
├── NotAuthenticated   no token, or an invalid or expired one
├── NotAllowed         authenticated, but without the permission
├── NotFound           no such object in this account
├── Conflict           forbidden in the present state
│   └── InFlight       an equal request is in work
├── TooLarge           over a size limit or a quota
├── WrongKind          a body of an unsupported media type
├── TooMany            over a rate limit; carries the seconds to wait
└── Unavailable        server draining or disk full; carries the seconds to wait
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldError:
    """One bad field of a request: its name, the allowed values, and the given one."""

    field: str
    message: str
    given: Any = None

    def as_dict(self) -> dict[str, Any]:
        return {"field": self.field, "message": self.message, "given": self.given}


class FarmError(Exception):
    """Base of all refusals. `str(error)` is one sentence for a person; `title` heads it in the API's
    answer."""

    title = "The farm refused this"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(FarmError):
    """Bad input; `errors` names every bad field."""

    title = "Bad input"

    def __init__(self, errors: Sequence[FieldError], detail: str | None = None) -> None:
        self.errors = tuple(errors)
        super().__init__(detail or "; ".join(f"{e.field}: {e.message}" for e in self.errors[:5]))

    @classmethod
    def of(cls, field_name: str, message: str, given: Any = None) -> InvalidInput:
        return cls([FieldError(field_name, message, given)])


class NotAuthenticated(FarmError):
    title = "Not logged in"


class NotAllowed(FarmError):
    title = "Not allowed"


class NotFound(FarmError):
    title = "Not found"


class Conflict(FarmError):
    """The object's state forbids the request. `facts` go into the answer: the state and the allowed
    actions."""

    title = "Not possible in this state"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.facts = facts


class InFlight(Conflict):
    """A request with the same idempotency key is in work."""

    title = "Already being worked on"
    retry_after_seconds = 1


class TooLarge(FarmError):
    title = "Too large"


class WrongKind(FarmError):
    title = "Unsupported media type"


class TooMany(FarmError):
    title = "Too many requests"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(FarmError):
    title = "Not available now"

    def __init__(self, detail: str, retry_after_seconds: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
