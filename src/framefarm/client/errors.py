"""What can go wrong on an artist's side. `str(error)` is a sentence for a person.

FarmError                (core)
├── Refused              the farm answered, and said no: status, sentence, every bad field
│   └── LoginNeeded      401: no token, or one that is not valid any more
├── Unreachable          no answer that can be understood
├── LocalProblem         a file, folder or setting on this machine is in the way
│   └── NotLoggedIn      no login is stored here, or no farm is known
└── Incomplete           a download in which some files are missing or wrong, named
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from framefarm.core.errors import FarmError, FieldError

__all__ = ["FarmError", "Incomplete", "LocalProblem", "LoginNeeded", "NotLoggedIn", "Refused", "Unreachable"]


class Refused(FarmError):
    """The farm's problem document (RFC 9457). `errors` holds every bad field."""

    def __init__(
        self, status: int, problem: Mapping[str, Any], retry_after_seconds: float | None = None
    ) -> None:
        self.status = status
        self.problem = dict(problem)
        self.retry_after_seconds = retry_after_seconds
        self.request_id: str | None = problem.get("request_id")
        self.errors = tuple(
            FieldError(str(e.get("field", "")), str(e.get("message", "")), e.get("given"))
            for e in problem.get("errors") or ()
            if isinstance(e, Mapping)
        )
        super().__init__(str(problem.get("detail") or problem.get("title") or f"The farm answered {status}."))


class LoginNeeded(Refused):
    """401."""


class Unreachable(FarmError):
    """The farm gave no answer, or one that is not its own."""

    title = "The farm cannot be reached"


class LocalProblem(FarmError):
    """Something on this machine: a file that cannot be read, a folder that cannot be written."""

    title = "Something on this machine is in the way"


class NotLoggedIn(LocalProblem):
    """Nothing was asked of a farm: there is no login to ask with."""

    title = "Not logged in"


class Incomplete(FarmError):
    """Not everything arrived. `problems` is one (path, sentence) for each file."""

    title = "The download is not complete"

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        files = "1 file is" if count == 1 else f"{count} files are"
        super().__init__(f"{files} missing or wrong; run the same command again to fetch what is missing.")
