"""Exceptions of the `sandboxing` package."""

from __future__ import annotations

from framefarm.core.errors import FarmError


class SandboxUnavailable(FarmError):
    """A program cannot be run in a sandbox on this machine; `detail` is one sentence with the reason."""

    title = "No sandbox"


class Stopped(Exception):
    """The caller's `stopping` became true before the module had answered; the module was killed."""
