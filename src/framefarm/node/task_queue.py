"""The tasks of a session as a state machine without I/O: events go in, actions and reports come out.

The session loop carries them out: it starts Blender, renders frames, sends events. Attempts never overlap,
and each accepted task ends exactly once, with TaskEnded or TaskReleased.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from framefarm.core.failure_codes import explain
from framefarm.protocol import node as msg


@dataclass
class HeldTask:
    """A task that the farm assigned and that has not ended. `remaining`: its frames not yet begun."""

    order: msg.TaskOrder
    remaining: deque[int]
    started_ms: int | None = None
    """When its attempt began; None: not begun."""
    frame_in_work: int | None = None
    """The frame that Blender renders now."""
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class FrameToRender:
    """The frame that Blender has to render now. `first`: the attempt begins with it."""

    attempt: str
    frame: int
    first: bool


@dataclass
class TaskQueue:
    """All tasks that the session holds. Times `_ms` are milliseconds of the runner's monotonic clock.

    Returned `msg` events are to be reported to the farm, in order.
    """

    tasks: dict[str, HeldTask] = field(default_factory=dict)
    """By attempt, in the order of the assignment."""
    known: set[str] = field(default_factory=set)
    """Every attempt ever accepted: an ended one does not begin again."""
    version: int = 0
    """Version of the newest desired state."""
    drain: bool = False
    """End when all tasks in hand have ended."""
    cancelled: bool = False
    preempted: bool = False
    """The slot is needed for other work."""
    waiting: int = 0
    """Number of saved frames that are not staged yet."""
    most_waiting: int = 2
    unacknowledged_bytes: int = 0
    """Size of the staged files that were reported and have no verdict yet."""
    max_unacknowledged_bytes: int | None = None
    """Unacknowledged bytes at which rendering pauses; None: no limit."""
    runtime_ms: int | None = None
    """Longest time for a task; None: no limit."""
    no_progress_ms: int | None = None
    """Longest time without a sign of life from a Blender that has a request; None: no limit."""
    last_sign_ms: int | None = None
    """Blender's last sign of life, or the request; None while Blender has no request."""

    @property
    def current(self) -> HeldTask | None:
        """The task in work: the one that has begun."""
        return next((t for t in self.tasks.values() if t.started_ms is not None), None)

    @property
    def done(self) -> bool:
        """No task in hand, and none will come."""
        return not self.tasks and (self.drain or self.cancelled)

    def take(self, desired: msg.DesiredState, now_ms: int) -> list[msg.Event]:
        """Apply a desired state, unless a newer one was applied. Tasks that it does not list are given up:
        unbegun ones at once, a begun one after its frame in work."""
        if desired.version < self.version or self.cancelled:
            return []
        self.version = desired.version
        self.preempted = self.preempted or desired.preempt_seconds is not None
        self.drain = self.drain or desired.drain or self.preempted
        events: list[msg.Event] = []
        listed = {t.attempt for t in desired.tasks}
        for attempt in [a for a in self.tasks if a not in listed]:
            events += self._give_up(attempt, now_ms)
        if desired.cancel:
            return events + self.stop(now_ms)
        for order in desired.tasks:
            if order.attempt not in self.known:
                self.known.add(order.attempt)
                self.tasks[order.attempt] = HeldTask(order, deque(order.frames))
        return events

    def _give_up(self, attempt: str, now_ms: int) -> list[msg.Event]:
        task = self.tasks[attempt]
        if task.started_ms is None:
            del self.tasks[attempt]
            return [msg.TaskReleased(attempt=attempt)]
        task.remaining.clear()
        if task.frame_in_work is None:
            return [self._end(task, self._outcome_when_given_up, now_ms)]
        return []

    @property
    def _outcome_when_given_up(self) -> msg.TaskEnd:
        return "preempted" if self.preempted else "cancelled"

    def next(self, now_ms: int) -> FrameToRender | None:
        """Begin the next frame, if Blender is free and neither staging nor the farm's verdicts lag behind."""
        if self.cancelled or self.waiting >= self.most_waiting or not self.tasks:
            return None
        limit = self.max_unacknowledged_bytes
        if limit is not None and self.unacknowledged_bytes >= limit:
            return None  # until the farm answers again
        task = self.current or next(iter(self.tasks.values()))
        if task.frame_in_work is not None or not task.remaining:
            return None
        first = task.started_ms is None
        if first:
            task.started_ms = now_ms
        task.frame_in_work = task.remaining.popleft()
        self.last_sign_ms = now_ms
        return FrameToRender(task.order.attempt, task.frame_in_work, first)

    def saved(self, frame: int, peak_memory_bytes: int, now_ms: int) -> tuple[str, list[msg.Event]] | None:
        """Blender saved the frame in work: (its attempt, events to report once the frame is staged).

        None if the frame is not in work.
        """
        task = self.current
        if task is None or task.frame_in_work != frame:
            return None
        task.frame_in_work = self.last_sign_ms = None
        task.peak_memory_bytes = max(task.peak_memory_bytes, peak_memory_bytes)
        self.waiting += 1
        attempt = task.order.attempt
        if task.remaining:
            return attempt, []
        complete = frame == task.order.frames[-1]
        outcome: msg.TaskEnd = "success" if complete else self._outcome_when_given_up
        return attempt, [self._end(task, outcome, now_ms)]

    def staged(self, count: int = 1, size_bytes: int = 0) -> None:
        """`count` saved frames are staged or refused; `size_bytes` of their files were reported."""
        self.waiting -= count
        self.unacknowledged_bytes += size_bytes

    def acknowledged(self, size_bytes: int) -> None:
        """Reported files of `size_bytes` have got their verdicts. May be called before `staged` for them."""
        self.unacknowledged_bytes -= size_bytes

    def begin_without_frame(self, now_ms: int) -> None:
        """Begin the first task's attempt before its first frame: its time includes loading the scene."""
        if self.current is None and self.tasks:
            next(iter(self.tasks.values())).started_ms = now_ms

    def opening(self, now_ms: int) -> None:
        """Blender was asked to open the scene; `opened` follows."""
        self.last_sign_ms = now_ms

    def opened(self) -> None:
        """Blender has opened the scene and has no request."""
        self.last_sign_ms = None

    def sign_of_life(self, now_ms: int) -> None:
        """Blender reported progress."""
        if self.last_sign_ms is not None:
            self.last_sign_ms = now_ms

    @property
    def next_deadline_ms(self) -> int | None:
        """When `overdue` has to be called next; None while no limit applies."""
        return min((at for at, _ in self._deadlines()), default=None)

    def overdue(self, now_ms: int) -> list[msg.Event]:
        """The end of the task in work if it ran too long or Blender gave no sign of life; else no event."""
        task = self.current
        for at, cause in sorted(self._deadlines()):
            if task is not None and now_ms >= at:
                limit = self.runtime_ms if cause == "task_timed_out" else self.no_progress_ms
                where = "" if task.frame_in_work is None else f" in frame {task.frame_in_work}"
                message = explain(cause, {"limit": f"{(limit or 0) / 1000:g}", "where": where})
                return [self._end(task, "timed_out", now_ms, cause, message, task.frame_in_work)]
        return []

    def _deadlines(self) -> list[tuple[int, str]]:
        """(time in ms, failure code) of each limit on the task in work."""
        task = self.current
        if task is None or task.started_ms is None:
            return []
        deadlines: list[tuple[int, str]] = []
        if self.runtime_ms is not None:
            deadlines.append((task.started_ms + self.runtime_ms, "task_timed_out"))
        if self.no_progress_ms is not None and self.last_sign_ms is not None:
            deadlines.append((self.last_sign_ms + self.no_progress_ms, "no_progress"))
        return deadlines

    def failed(self, cause: str, message: str, frame: int | None, now_ms: int) -> list[msg.Event]:
        """Blender failed on the task in work, or while it opened the scene for it."""
        task = self.current
        if task is None:
            return []
        failed_frame = task.frame_in_work if frame is None else frame
        return [self._end(task, "failed", now_ms, cause, message, failed_frame)]

    def refused(
        self, attempt: str, cause: str, message: str, frame: int, now_ms: int
    ) -> msg.TaskEnded | None:
        """A frame's output was refused, which fails its attempt; None if the attempt had ended before."""
        task = self.tasks.get(attempt)
        return None if task is None else self._end(task, "failed", now_ms, cause, message, frame)

    def stop(self, now_ms: int) -> list[msg.Event]:
        """End at once: the begun task ends as cancelled or preempted, the others are released."""
        self.cancelled = True
        events: list[msg.Event] = []
        for task in list(self.tasks.values()):
            if task.started_ms is None:
                del self.tasks[task.order.attempt]
                events.append(msg.TaskReleased(attempt=task.order.attempt))
            else:
                events.append(self._end(task, self._outcome_when_given_up, now_ms))
        return events

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
            self.last_sign_ms = None  # the next request is for another Blender
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
