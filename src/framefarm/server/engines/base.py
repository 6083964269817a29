"""The engine contract: who starts and watches sessions on machines. No tasks, no logs, no files.

`unknown` is never `dead`: an engine that cannot tell says so, and the lease decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from framefarm.core.schedule import NodeCapacity


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What an engine needs to start a session. `token` goes to the runner's standard input alone."""

    id: str
    token: str
    node: str
    zone: str
    cores: int
    memory_bytes: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """What an engine sees of a session. `exited` carries the runner's own last words, if it left any."""

    state: Literal["running", "exited", "lost", "unknown"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """One machine: all it has, and whether more like it could be had."""

    total: NodeCapacity
    market: Literal["on_demand", "preemptible", "any"] = "any"
    could_grow: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A machine is about to be taken."""

    node: str
    deadline_ms: int


class Engine(Protocol):
    """All calls may take a while and are made from a thread, never from the event loop."""

    name: str

    def start(self, session: SessionSpec) -> None:
        """Start the session's runner. Idempotent by id: a session that was started is left alone."""

    def stop(self, session_id: str, grace_seconds: float) -> None:
        """Notify the runner, wait, then kill its whole tree. Returns when nothing of it is left."""

    def observe(self) -> dict[str, Observed]:
        """All sessions that the engine knows of, running or not yet forgotten."""

    def capacity(self) -> Sequence[Capacity]:
        """The machines there are."""

    def notices(self) -> Sequence[Notice]:
        """Machines about to be taken."""

    def forget(self, session_id: str) -> None:
        """Drop what is left of an ended session."""
