"""A job's tasks, computed from its frames, scouts and chunk size."""

from __future__ import annotations

from framefarm.core.frames import FrameSet


class TaskPlan:
    """Tasks of a job: one for each scout first, then the other frames in chunks of `chunk_size` (at least 1).

    `scouts` is a subset of `frames` (`frame_grammar.resolve_scouts`). Task numbers start at 0.
    """

    def __init__(self, frames: FrameSet, scouts: FrameSet, chunk_size: int) -> None:
        self.scouts = scouts
        self.rest = frames.difference(scouts)
        self.chunk_size = chunk_size
        self.scout_count = len(scouts)
        self.task_count = self.scout_count + -(-len(self.rest) // chunk_size)

    @property
    def number_width(self) -> int:
        """Digits of a task's number: at least three, more if the last number needs them."""
        return max(3, len(str(max(0, self.task_count - 1))))

    def frames_of(self, number: int) -> list[int]:
        """Frames of task `number`. Raises IndexError."""
        if not 0 <= number < self.task_count:
            raise IndexError(number)
        if number < self.scout_count:
            return [self.scouts.nth(number)]
        start = (number - self.scout_count) * self.chunk_size
        return self.rest.slice(start, start + self.chunk_size)

    def task_of(self, frame: int) -> int:
        """Number of the task that renders `frame`. Raises ValueError if it is no frame of the job."""
        if frame in self.scouts:
            return self.scouts.position_of(frame)
        return self.scout_count + self.rest.position_of(frame) // self.chunk_size
