"""A runner that sends the messages of a real one and renders nothing, for tests of the server alone."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from framefarm.protocol import node as msg
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.ids import new_id
from framefarm.server.jobs.tables import jobs
from framefarm.server.sessions import expiry, service
from framefarm.server.sessions.tables import leases, sessions

PRICE_MICROS = 3_600_000
"""Per hour: one micro-dollar for each millisecond."""


def _write_session(tx: Tx, context: AppContext, job_id: str, session_id: str, token: str) -> None:
    """Insert the rows that the dispatcher inserts before it starts a session."""
    job = tx.conn.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().one()
    tx.conn.execute(
        sa.insert(sessions).values(
            id=session_id,
            account_id=job["account_id"],
            job_id=job_id,
            instance_type_id=job["instance_type_id"],
            preemptible=job["preemptible"],
            price_micros=PRICE_MICROS,
            node="fake-node",
            cores=1,
            memory_bytes=1 << 30,
            state="starting",
            ended=False,
            token_hash=context.keys.digest("session", token),
            created_ms=tx.now_ms,
            version=1,
            drain=False,
            cancel=False,
            last_seq=0,
        )
    )
    tx.conn.execute(sa.insert(leases).values(session_id=session_id, expires_ms=tx.now_ms + 60_000))


@dataclass
class FakeRunner:
    context: AppContext
    session: str
    token: str
    order: msg.SessionConfig
    seq: int = 0
    clock_ms: int = 0

    @classmethod
    def start(cls, context: AppContext, job_id: str) -> FakeRunner:
        session, token = new_id("ses"), new_id("token")
        context.db.write_now(_write_session, context, job_id, session, token)
        hello = msg.Hello(protocol=msg.PROTOCOL_VERSION, node="fake-node", pid=1, boot_id="b")
        order = context.db.write_now(service.hello, context, session, token, hello)
        return cls(context, session, token, order)

    def sync(self) -> msg.DesiredState:
        return self.context.db.write_now(service.sync, self.context, self.session, self.token)

    def report(self, *events: msg.Event, seq: int | None = None) -> msg.ReportReply:
        report = msg.Report(seq=self.seq + 1 if seq is None else seq, events=list(events))
        receipt = self.context.db.write_now(service.report, self.context, self.session, self.token, report)
        self.seq = receipt.last_seq
        return receipt

    def started(self, task: msg.TaskOrder) -> msg.TaskStarted:
        return msg.TaskStarted(attempt=task.attempt, at_ms=self.clock_ms)

    def saved(self, task: msg.TaskOrder, frame: int) -> msg.FrameSaved:
        file = msg.StagedFile(
            path=f"shot_{frame:04d}.png",
            staged=f"{frame}.png",
            kind="frame",
            size=3,
            md5="0" * 32,
            sha256="0" * 64,
        )
        return msg.FrameSaved(
            attempt=task.attempt, frame=frame, at_ms=self.clock_ms, seconds=0.001, files=[file]
        )

    def ended(
        self,
        task: msg.TaskOrder,
        outcome: msg.TaskEnd = "success",
        ms: int = 0,
        message: str | None = None,
        cause: str = "fake",
        frame: int | None = None,
    ) -> msg.TaskEnded:
        return msg.TaskEnded(
            attempt=task.attempt,
            outcome=outcome,
            started_ms=self.clock_ms,
            ended_ms=self.clock_ms + ms,
            cause=None if message is None else cause,
            message=message,
            frame=frame,
        )

    def render(self, task: msg.TaskOrder, ms: int = 0) -> msg.ReportReply:
        """Report a whole task at once."""
        saved = [self.saved(task, f) for f in task.frames]
        return self.report(self.started(task), *saved, self.ended(task, ms=ms))

    def render_all(self) -> list[int]:
        """Render all assigned tasks until none follows; returns the frames in order."""
        rendered: list[int] = []
        assigned = self.sync().tasks
        while assigned:
            task = assigned[0]
            rendered += task.frames
            receipt = self.render(task)
            assert set(receipt.verdicts) == {"applied"}
            assigned = receipt.desired.tasks
        return rendered

    def end(self) -> None:
        self.report(msg.SessionEnded(reason="drained"))

    def lose(self) -> None:
        """Lose the session, as the engine or the lease would."""
        self.context.db.write_now(expiry.lose_session, self.session, "runner_lost", "The machine was lost.")
