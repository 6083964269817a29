"""Failures of a whole job before or while its scene is opened."""

from __future__ import annotations

from collections.abc import Sequence

from framefarm.core.failure_codes import explain
from framefarm.server.jobs.warnings import JobWarning

MOST_NAMED = 5
"""Most missing files named in one sentence."""


class Unrenderable(Exception):
    """The scene can't be rendered as asked: a failure code, a sentence for the artist, and the warnings about
    the job that were found until then."""

    def __init__(
        self, cause: str, message: str = "", *, warnings: Sequence[JobWarning] = (), **facts: object
    ) -> None:
        self.cause, self.message = cause, message or explain(cause, facts)
        self.warnings = list(warnings)
        super().__init__(self.message)


def missing_files(paths: Sequence[str], warnings: Sequence[JobWarning] = ()) -> Unrenderable:
    """The failure for files that the scene needs and the job lacks. `warnings` name each with its user."""
    count = f"{len(paths)} file{'s' if len(paths) > 1 else ''}"
    named = ", ".join(paths[:MOST_NAMED]) + (", …" if len(paths) > MOST_NAMED else "")
    return Unrenderable("missing_files", warnings=warnings, count=count, named=named)
