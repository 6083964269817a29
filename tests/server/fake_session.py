"""A runner's real task queue over the server's real functions, advanced by the test, without Blender."""

from __future__ import annotations

from dataclasses import dataclass, field

from framefarm.core.errors import Conflict
from framefarm.node.task_queue import TaskQueue
from framefarm.protocol import node as msg
from framefarm.server.context import AppContext
from framefarm.server.engines.base import SessionSpec
from framefarm.server.sessions import service


@dataclass
class FakeSession:
    context: AppContext
    spec: SessionSpec
    desk: TaskQueue = field(default_factory=lambda: TaskQueue(most_waiting=1000))
    outbox: list[msg.Event] = field(default_factory=list)
    in_flight: msg.Report | None = None
    seq: int = 0
    said_hello: bool = False
    over: bool = False

    def now_ms(self) -> int:
        return self.context.db.clock_ms()

    def hello(self) -> None:
        hello = msg.Hello(protocol=msg.PROTOCOL_VERSION, node="fake-node", pid=1, boot_id="b")
        try:
            self.context.db.write_now(service.hello, self.context, self.spec.id, self.spec.token, hello)
        except (Conflict, service.SessionOver):
            self.over = True
        self.said_hello = True

    def sync(self) -> None:
        try:
            desired = self.context.db.write_now(service.sync, self.context, self.spec.id, self.spec.token)
        except service.SessionOver:
            self.over = True
            return
        self._take(desired)

    def render(self) -> int | None:
        """Begin and save the next frame of the tasks in hand; returns it."""
        due = self.desk.next(self.now_ms())
        if due is None:
            return None
        if due.first:
            self.outbox.append(msg.TaskStarted(attempt=due.attempt, at_ms=self.now_ms()))
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

    def begun(self) -> msg.TaskStarted:
        assert self.desk.current is not None
        return msg.TaskStarted(attempt=self.desk.current.order.attempt, at_ms=self.now_ms())

    def opened(self) -> msg.BlenderOpened:
        return msg.BlenderOpened(blender="4.2.23", load_seconds=1.0)

    def unfit(self, cause: str = "machine_unfit") -> None:
        """Report that the node can't render the job."""
        self.outbox.append(msg.SessionFailed(cause=cause, message="No sandbox."))
        self.send()

    def send(self, *, hear: bool = True) -> tuple[list[msg.Event], list[msg.Verdict]]:
        """Send the report in flight, or one of all queued events. `hear` false: the answer is lost."""
        if self.in_flight is None:
            if not self.outbox:
                return [], []
            self.in_flight = msg.Report(seq=self.seq + 1, events=self.outbox)
            self.outbox = []
        report = self.in_flight
        try:
            receipt = self.context.db.write_now(
                service.report, self.context, self.spec.id, self.spec.token, report
            )
        except service.SessionOver:
            self.over = True
            return [], []
        if hear:
            self.in_flight = None
            self.seq = report.seq
            self._take(receipt.desired)
        return report.events, receipt.verdicts

    def _take(self, desired: msg.DesiredState) -> None:
        self.outbox += self.desk.take(desired, self.now_ms())
        if self.desk.done and not self.over:
            self.outbox.append(msg.SessionEnded(reason="drained"))


def frame_saved(attempt: str, frame: int, at_ms: int) -> msg.FrameSaved:
    file = msg.StagedFile(
        path=f"shot_{frame:04d}.png",
        staged=f"{frame}.png",
        kind="frame",
        size=3,
        md5="0" * 32,
        sha256="0" * 64,
    )
    return msg.FrameSaved(attempt=attempt, frame=frame, at_ms=at_ms, seconds=0.001, files=[file])
