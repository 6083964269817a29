"""What this room raises."""

from __future__ import annotations

from framefarm.core.errors import FarmError


class SandboxUnavailable(FarmError):
    """Nothing can be shut in on this machine; the sentence says why."""

    title = "No sandbox"


class Stopped(Exception):
    """Whoever asked does not wait for the answer any more."""
