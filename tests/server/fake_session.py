"""A runner's own desk, moved by hand over the farm's real functions: no process, no Blender."""

from __future__ import annotations

from dataclasses import dataclass, field

from framefarm.core.errors import Conflict
from framefarm.node.task_queue import Desk
from framefarm.protocol import node as say
from framefarm.server.context import Farm
from framefarm.server.engines.base import SessionSpec
from framefarm.server.sessions import service


@dataclass
class FakeSession:
    farm: Farm
    spec: SessionSpec
    desk: Desk = field(default_factory=lambda: Desk(most_waiting=1000))
    outbox: list[say.Event] = field(default_factory=list)
    in_flight: say.Report | None = None
    seq: int = 0
    said_hello: bool = False
    over: bool = False

    def now_ms(self) -> int:
        return self.farm.db.clock_ms()

    def hello(self) -> None:
        said = say.Hello(protocol=say.PROTOCOL_VERSION, node="fake-node", pid=1, boot_id="b")
        try:
            self.farm.db.write_now(service.hello, self.farm, self.spec.id, self.spec.token, said)
        except (Conflict, service.SessionOver):
            self.over = True
        self.said_hello = True

    def sync(self) -> None:
        try:
            wanted = self.farm.db.write_now(service.sync, self.farm, self.spec.id, self.spec.token)
        except service.SessionOver:
            self.over = True
            return
        self._take(wanted)

    def render(self) -> int | None:
        """Begin and save the next frame, as far as this machine knows; returns it."""
        due = self.desk.next(self.now_ms())
        if due is None:
            return None
        if due.first:
            self.outbox.append(say.TaskStarted(attempt=due.attempt, at_ms=self.now_ms()))
        task = self.desk.current
        assert task is not None
        _, follows = self.desk.saved(due.frame, 1, self.now_ms()) or ("", [])
        self.outbox.append(frame_saved(due.attempt, due.frame, self.now_ms()))
        self.outbox += follows
        return due.frame

    def fail(self) -> None:
        self.outbox += self.desk.failed("fake", "It failed.", None, self.now_ms())

    def render_failed(self, cause: str, message: str = "It failed.") -> None:
        """Begin the task in hand and fail on it."""
        self.desk.begin_without_frame(self.now_ms())
        self.outbox.append(self.begun())
        self.outbox += self.desk.failed(cause, message, None, self.now_ms())
        self.send()

    def begun(self) -> say.TaskStarted:
        assert self.desk.current is not None
        return say.TaskStarted(attempt=self.desk.current.order.attempt, at_ms=self.now_ms())

    def opened(self) -> say.BlenderOpened:
        return say.BlenderOpened(blender="4.2.23", load_seconds=1.0)

    def unfit(self, cause: str = "machine_unfit") -> None:
        """The machine cannot do the job."""
        self.outbox.append(say.SessionFailed(cause=cause, message="No sandbox."))
        self.send()

    def send(self, *, hear: bool = True) -> tuple[list[say.Event], list[say.Verdict]]:
        """Report what there is to tell, that in flight first. `hear` false: the answer is lost."""
        if self.in_flight is None:
            if not self.outbox:
                return [], []
            self.in_flight = say.Report(seq=self.seq + 1, events=self.outbox)
            self.outbox = []
        report = self.in_flight
        try:
            receipt = self.farm.db.write_now(service.report, self.farm, self.spec.id, self.spec.token, report)
        except service.SessionOver:
            self.over = True
            return [], []
        if hear:
            self.in_flight = None
            self.seq = report.seq
            self._take(receipt.desired)
        return report.events, receipt.verdicts

    def _take(self, wanted: say.Desired) -> None:
        self.outbox += self.desk.take(wanted, self.now_ms())
        if self.desk.done and not self.over:
            self.outbox.append(say.SessionEnded(reason="drained"))


def frame_saved(attempt: str, frame: int, at_ms: int) -> say.FrameSaved:
    file = say.StagedFile(
        path=f"shot_{frame:04d}.png",
        staged=f"{frame}.png",
        kind="frame",
        size=3,
        md5="0" * 32,
        sha256="0" * 64,
    )
    return say.FrameSaved(attempt=attempt, frame=frame, at_ms=at_ms, seconds=0.001, files=[file])
