"""Helpers of the node's tests: inputs from a folder, and a harness that starts Blenders."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from framefarm.node.blender import Blender, BlenderLimits, Event, Exited, Failed, Opened, Saved, SceneOrder
from framefarm.node.inputs import Layout, lay_out
from framefarm.node.sandbox import Mode
from framefarm.protocol.node import Input, Package, RenderSettings

UID = 71234


def inputs_of(folder: Path, at: str) -> list[Input]:
    """All files below `folder` as inputs below the artist's folder `at`."""
    return [
        Input(path=f"{at}/{f.relative_to(folder)}", sha256="", size=f.stat().st_size, source=str(f))
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    ]


@dataclass
class BlenderHarness:
    """Starts Blenders for a test; the fixture kills them after it. `printed` is what all of them printed."""

    folder: Path
    package: Package
    scenes: Path
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    printed: bytearray = field(default_factory=bytearray)
    blenders: list[Blender] = field(default_factory=list)

    def work(self) -> Path:
        """The work folder of the next Blender."""
        return self.folder / f"work{len(self.blenders)}"

    def layout(self, at: str = "/projects/film", sandbox: Mode = "bubblewrap") -> Layout:
        return lay_out(inputs_of(self.scenes, at), self.folder / "tree", sandbox)

    def start(
        self,
        scene: str,
        settings: RenderSettings | None = None,
        environment: Mapping[str, str] | None = None,
        layout: Layout | None = None,
        at: str = "/projects/film",
        package: Package | None = None,
        play_history: bool = False,
        sandbox: Mode = "bubblewrap",
        allow_scripts: bool = False,
        gpus: int = 0,
        addons: Sequence[str] = (),
        shaders: Path | None = None,
    ) -> Blender:
        work = self.work()
        work.mkdir(mode=0o755, exist_ok=True)
        settings = settings or RenderSettings()
        order = SceneOrder(
            f"{at}/{scene}.blend", settings, environment or {}, allow_scripts, play_history, addons
        )
        limits = BlenderLimits((min(os.sched_getaffinity(0)),), UID, sandbox, gpus=gpus)
        layout = layout or self.layout(at, sandbox)
        blender = Blender(
            limits, package or self.package, order, layout, work, self.events, self.printed.extend, shaders
        )
        self.blenders.append(blender)
        return blender

    def next(self, event_type: type[Event]) -> Event:
        """The next event of this type; a Failed or Exited before it fails the test. Waits 90 s at most."""
        deadline = time.monotonic() + 90
        while True:
            event = self.events.get(timeout=max(0.1, deadline - time.monotonic()))
            if isinstance(event, event_type):
                return event
            assert not isinstance(event, Failed | Exited), f"{event}\n{self.printed.decode()[-3000:]}"

    def opened(self) -> Opened:
        event = self.next(Opened)
        assert isinstance(event, Opened)
        return event

    def saved(self) -> Saved:
        event = self.next(Saved)
        assert isinstance(event, Saved)
        return event

    def failed(self) -> Failed:
        event = self.next(Failed)
        assert isinstance(event, Failed)
        return event

    def exited(self) -> Exited:
        event = self.next(Exited)
        assert isinstance(event, Exited)
        return event


def inner_pid(pid: int) -> int:
    """The last process of the chain below `pid`: Blender, below its sandbox's helpers, not its watcher."""
    while children := [child for child in _children(pid) if b"/proc/self/fd/" not in _command(child)]:
        pid = children[0]
    return pid


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
