"""An engine without processes: the test decides how its sessions live, end and fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from framefarm.core.schedule import NodeCapacity
from framefarm.server.context import AppContext
from framefarm.server.dispatch.dispatcher import Dispatcher
from framefarm.server.engines.base import Capacity, Notice, Observed, SessionSpec

NODE = "fake-node"


class FakeEngine:
    name = "fake"

    def __init__(self, cores: int, nodes: Sequence[tuple[str, str]] = ((NODE, ""),)) -> None:
        self.cores = cores
        """Cores of each node."""
        self.nodes = list(nodes)
        """(name, zone) of each node."""
        self.noticed: list[Notice] = []
        self.started: dict[str, SessionSpec] = {}
        self.seen: dict[str, Observed] = {}
        self.answers = True
        self.before_stop: Callable[[str], None] = lambda session_id: None
        self.stopped: list[str] = []

    def start(self, session: SessionSpec) -> None:
        if session.id not in self.started:
            on_node = [self.started[s] for s in self.running if self.started[s].node == session.node]
            used = sum(s.cores for s in on_node)
            assert used + session.cores <= self.cores, "a slot was given twice"
            self.started[session.id] = session
            self.seen[session.id] = Observed("running")

    @property
    def running(self) -> list[str]:
        return [s for s, seen in self.seen.items() if seen.state == "running"]

    def die(self, session_id: str, reason: str = "") -> None:
        """End the session's runner."""
        self.seen[session_id] = Observed("exited", reason)

    def stop(self, session_id: str, grace_seconds: float) -> None:
        self.before_stop(session_id)
        self.stopped.append(session_id)
        self.die(session_id, "stopped")

    def observe(self) -> dict[str, Observed]:
        if not self.answers:
            raise ConnectionError("the engine does not answer")
        return dict(self.seen)

    def capacity(self) -> Sequence[Capacity]:
        return [Capacity(NodeCapacity(name, zone, self.cores, 1 << 50)) for name, zone in self.nodes]

    def notices(self) -> Sequence[Notice]:
        return list(self.noticed)

    def forget(self, session_id: str) -> None:
        self.seen.pop(session_id, None)


class ManualDispatcher(Dispatcher):
    """The real dispatcher, with ticks that the test starts."""

    def __init__(self, context: AppContext, engine: FakeEngine, loop: asyncio.Runner) -> None:
        super().__init__(context, engine, "test")
        self.loop = loop
        context.db.write_now(self.lead.acquire)

    def turn(self) -> float:
        """Run one tick and wait for the stops that it began."""

        async def once() -> float:
            pause = await self.tick()
            await asyncio.gather(*self.stopping.values())
            return pause

        return self.loop.run(once())
