"""The engine contract: start and watch sessions' runners on nodes. Tasks, logs and files are not its concern.

An engine that cannot tell a session's state reports `unknown`; then the session's lease decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from framefarm.core.schedule import NodeCapacity


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session to start. `token` is a secret: it is passed only on the runner's standard input."""

    id: str
    token: str
    node: str
    zone: str
    cores: int
    memory_bytes: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """State of a session as its engine sees it. `reason`: an exited runner's own, if it left any."""

    state: Literal["running", "exited", "lost", "unknown"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A node with all its resources. `could_grow`: the engine could add nodes like it."""

    total: NodeCapacity
    market: Literal["on_demand", "preemptible", "any"] = "any"
    could_grow: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A node's departure: its provider takes it at `deadline_ms`."""

    node: str
    deadline_ms: int


class Engine(Protocol):
    """Starts and watches sessions. All calls may be slow: call them in a thread, not in the event loop."""

    name: str

    def start(self, session: SessionSpec) -> None:
        """Start the session's runner. A session of this id that was started before is left alone."""

    def stop(self, session_id: str, grace_seconds: float) -> None:
        """Notify the runner, wait up to the grace, then kill its process tree. Returns when it has ended."""

    def observe(self) -> dict[str, Observed]:
        """States of all running sessions, and of ended ones until `forget`, by session id."""

    def capacity(self) -> Sequence[Capacity]:
        """All nodes."""

    def notices(self) -> Sequence[Notice]:
        """Departures that providers have announced."""

    def forget(self, session_id: str) -> None:
        """Delete the files of an ended session; a running one is left alone."""
