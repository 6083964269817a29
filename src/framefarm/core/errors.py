"""The farm's exception tree. `server/http/errors.py` holds the one table from these to HTTP statuses.

FarmError
├── InvalidInput       bad input, with every bad field
├── NotAuthenticated   no token, or one that is not valid (any more)
├── NotAllowed         known, but may not do this
├── NotFound           not there, or another account's
├── Conflict           the state forbids it
│   └── InFlight       a twin of this request is being worked on
├── TooLarge           over a size limit or a quota
├── WrongKind          a body of a kind that is not understood here
├── TooMany            over a rate; carries when to come back
└── Unavailable        draining, or the disk is full; carries when to come back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FieldError:
    """One bad field of a request: where, what is allowed, and what was given."""

    field: str
    message: str
    given: Any = None

    def as_dict(self) -> dict[str, Any]:
        return {"field": self.field, "message": self.message, "given": self.given}


class FarmError(Exception):
    """Base of everything the farm refuses. `str(error)` is one sentence for a person."""

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
    """The state forbids it. `facts` go into the answer: the state, and what is allowed."""

    title = "Not possible in this state"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.facts = facts


class InFlight(Conflict):
    """A request with the same idempotency key is being worked on."""

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
