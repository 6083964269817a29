"""What a session has in hand: a state machine without I/O. Events go in, things to do come out.

The runner carries them out: it starts Blender, renders a frame, sends an event. Attempts never overlap; each
task that was taken in ends exactly once, by TaskEnded or TaskReleased.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from framefarm.core.failure_codes import explain
from framefarm.protocol import node as msg


@dataclass
class HeldTask:
    """A task in hand. `left`: frames not yet begun."""

    order: msg.TaskOrder
    left: deque[int]
    started_ms: int | None = None
    in_work: int | None = None
    """The frame that Blender renders now."""
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Render:
    """Render this frame now. `first`: the attempt begins with it."""

    attempt: str
    frame: int
    first: bool


@dataclass
class TaskQueue:
    """`now_ms` everywhere: the runner's monotonic clock. What is to be told the farm comes in `msg`."""

    tasks: dict[str, HeldTask] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    """All attempts ever taken in: what was ended once does not begin again."""
    version: int = 0
    drain: bool = False
    cancelled: bool = False
    preempted: bool = False
    """The slot goes to other work."""
    waiting: int = 0
    """Saved frames that are not staged yet."""
    most_waiting: int = 2
    gathered_bytes: int = 0
    """Staged and told, and not acknowledged: the farm does not answer, or not yet."""
    most_gathered_bytes: int | None = None
    runtime_ms: int | None = None
    """A task may run for so long."""
    silence_ms: int | None = None
    """Blender may give no sign of life for so long, if something was asked of it."""
    heard_ms: int | None = None
    """Its last one, or when it was asked; None while nothing is asked of it."""

    @property
    def current(self) -> HeldTask | None:
        """The task in work: the one that has begun."""
        return next((t for t in self.tasks.values() if t.started_ms is not None), None)

    @property
    def done(self) -> bool:
        """Nothing in hand, and nothing will come."""
        return not self.tasks and (self.drain or self.cancelled)

    def take(self, wanted: msg.DesiredState, now_ms: int) -> list[msg.Event]:
        """The farm's wishes, newest version only. What it no longer lists is given up: unbegun tasks at
        once, a begun one after its frame in work."""
        if wanted.version < self.version or self.cancelled:
            return []
        self.version = wanted.version
        self.preempted = self.preempted or wanted.preempt_seconds is not None
        self.drain = self.drain or wanted.drain or self.preempted
        said: list[msg.Event] = []
        listed = {t.attempt for t in wanted.tasks}
        for attempt in [a for a in self.tasks if a not in listed]:
            said += self._give_up(attempt, now_ms)
        if wanted.cancel:
            return said + self.stop(now_ms)
        for order in wanted.tasks:
            if order.attempt not in self.known:
                self.known.add(order.attempt)
                self.tasks[order.attempt] = HeldTask(order, deque(order.frames))
        return said

    def _give_up(self, attempt: str, now_ms: int) -> list[msg.Event]:
        task = self.tasks[attempt]
        if task.started_ms is None:
            del self.tasks[attempt]
            return [msg.TaskReleased(attempt=attempt)]
        task.left.clear()
        if task.in_work is None:
            return [self._end(task, self._given_up, now_ms)]
        return []

    @property
    def _given_up(self) -> msg.TaskEnd:
        return "preempted" if self.preempted else "cancelled"

    def next(self, now_ms: int) -> Render | None:
        """The next frame to render, if Blender is free, the collector keeps up and little has gathered."""
        if self.cancelled or self.waiting >= self.most_waiting or not self.tasks:
            return None
        if self.most_gathered_bytes is not None and self.gathered_bytes >= self.most_gathered_bytes:
            return None  # until the farm answers again
        task = self.current or next(iter(self.tasks.values()))
        if task.in_work is not None or not task.left:
            return None
        first = task.started_ms is None
        if first:
            task.started_ms = now_ms
        task.in_work = task.left.popleft()
        self.heard_ms = now_ms
        return Render(task.order.attempt, task.in_work, first)

    def saved(self, frame: int, peak_memory_bytes: int, now_ms: int) -> tuple[str, list[msg.Event]] | None:
        """Blender saved the frame in work: (its attempt, what follows once it is staged)."""
        task = self.current
        if task is None or task.in_work != frame:
            return None
        task.in_work = self.heard_ms = None
        task.peak_memory_bytes = max(task.peak_memory_bytes, peak_memory_bytes)
        self.waiting += 1
        attempt = task.order.attempt
        if task.left:
            return attempt, []
        whole = frame == task.order.frames[-1]
        return attempt, [self._end(task, "success" if whole else self._given_up, now_ms)]

    def staged(self, count: int = 1, gathered_bytes: int = 0) -> None:
        """Frames are durable; their files wait for the farm."""
        self.waiting -= count
        self.gathered_bytes += gathered_bytes

    def acknowledged(self, gathered_bytes: int) -> None:
        """The farm has them, or does not want them. It may say so before `staged` does."""
        self.gathered_bytes -= gathered_bytes

    def begin_without_frame(self, now_ms: int) -> None:
        """Blender starts: the first task's attempt begins now, loading the scene counts."""
        if self.current is None and self.tasks:
            next(iter(self.tasks.values())).started_ms = now_ms

    def opening(self, now_ms: int) -> None:
        """Blender was asked to open the scene; `opened` answers."""
        self.heard_ms = now_ms

    def opened(self) -> None:
        self.heard_ms = None

    def heard(self, now_ms: int) -> None:
        """A sign of life."""
        if self.heard_ms is not None:
            self.heard_ms = now_ms

    @property
    def due_ms(self) -> int | None:
        """When `overdue` is to be asked next; None while nothing can be late."""
        return min((at for at, _ in self._limits()), default=None)

    def overdue(self, now_ms: int) -> list[msg.Event]:
        """The end of the task in work if its time, or the patience with Blender, is over; else nothing."""
        task = self.current
        for at, cause in sorted(self._limits()):
            if task is not None and now_ms >= at:
                limit = self.runtime_ms if cause == "task_timed_out" else self.silence_ms
                where = "" if task.in_work is None else f" in frame {task.in_work}"
                message = explain(cause, {"limit": f"{(limit or 0) / 1000:g}", "where": where})
                return [self._end(task, "timed_out", now_ms, cause, message, task.in_work)]
        return []

    def _limits(self) -> list[tuple[int, str]]:
        task = self.current
        if task is None or task.started_ms is None:
            return []
        found: list[tuple[int, str]] = []
        if self.runtime_ms is not None:
            found.append((task.started_ms + self.runtime_ms, "task_timed_out"))
        if self.silence_ms is not None and self.heard_ms is not None:
            found.append((self.heard_ms + self.silence_ms, "no_progress"))
        return found

    def failed(self, cause: str, message: str, frame: int | None, now_ms: int) -> list[msg.Event]:
        """Blender failed on the task in work, or while it opened the scene for it."""
        task = self.current
        if task is None:
            return []
        at = task.in_work if frame is None else frame
        return [self._end(task, "failed", now_ms, cause, message, at)]

    def refused(
        self, attempt: str, cause: str, message: str, frame: int, now_ms: int
    ) -> msg.TaskEnded | None:
        """A frame's output can't be taken: its attempt failed; None if it had ended before."""
        task = self.tasks.get(attempt)
        return None if task is None else self._end(task, "failed", now_ms, cause, message, frame)

    def stop(self, now_ms: int) -> list[msg.Event]:
        """Stop now: Blender is killed, what was begun ends as cancelled, the rest is released."""
        self.cancelled = True
        said: list[msg.Event] = []
        for task in list(self.tasks.values()):
            if task.started_ms is None:
                del self.tasks[task.order.attempt]
                said.append(msg.TaskReleased(attempt=task.order.attempt))
            else:
                said.append(self._end(task, self._given_up, now_ms))
        return said

    def _end(
        self,
        task: HeldTask,
        outcome: msg.TaskEnd,
        now_ms: int,
        cause: str | None = None,
        message: str | None = None,
        frame: int | None = None,
    ) -> msg.TaskEnded:
        del self.tasks[task.order.attempt]
        if outcome != "success":
            self.heard_ms = None  # what is asked next is asked of another Blender
        assert task.started_ms is not None
        return msg.TaskEnded(
            attempt=task.order.attempt,
            outcome=outcome,
            started_ms=task.started_ms,
            ended_ms=now_ms,
            cause=cause,
            message=message,
            frame=frame,
            peak_memory_bytes=task.peak_memory_bytes,
        )
