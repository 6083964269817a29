"""Exceptions of the client. `str(error)` is a sentence for the artist.

FarmError                (core)
├── Refused              the farm answered with an error: status, sentence, every bad field
│   └── LoginNeeded      401: no token, or one that is no longer valid
├── Unreachable          no answer, or one that is not a farm's
├── LocalProblem         a file, folder or setting on this machine prevents the work
│   └── NotLoggedIn      no login is stored here, or no farm is known
└── Incomplete           a download in which some files are missing or wrong; it names them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from framefarm.core.errors import FarmError, FieldError

__all__ = ["FarmError", "Incomplete", "LocalProblem", "LoginNeeded", "NotLoggedIn", "Refused", "Unreachable"]


class Refused(FarmError):
    """An error answer of the farm.

    `problem` is the farm's problem document (RFC 9457), `errors` its bad fields, and `retry_after_seconds`
    the Retry-After header, if any.
    """

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
    """Status 401: the call had no token, or one that is no longer valid."""


class Unreachable(FarmError):
    """The farm did not answer, or the answer is not a farm's."""

    title = "The farm cannot be reached"


class LocalProblem(FarmError):
    """A problem found before the farm is asked: a file or folder, a name, a scene's version."""

    title = "The command cannot go on"


class NotLoggedIn(LocalProblem):
    """No login is stored for the farm, so it was not called."""

    title = "Not logged in"


class Incomplete(FarmError):
    """Some files of a download are missing or wrong. `problems` holds a (path, sentence) for each."""

    title = "The download is not complete"

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        files = "1 file is" if count == 1 else f"{count} files are"
        super().__init__(f"{files} missing or wrong; run the same command again to fetch what is missing.")
