"""Runners' reports, applied: frames committed behind the attempt's fence, tasks ended, attempts billed.

A report's effects and the session's `last_seq` change in one transaction.
"""

from __future__ import annotations

import re

import sqlalchemy as sa

from framefarm.core.frames import FrameSet
from framefarm.core.paths import is_output_name
from framefarm.core.task_outcomes import Outcome
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs import warnings
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.task_plans import job_terms_of
from framefarm.server.rows import SessionRow
from framefarm.server.sessions import frame_checks, scene_warnings
from framefarm.server.sessions.frame_checks import CommittedFrame
from framefarm.server.sessions.report_changes import NewFile, NewFrame
from framefarm.server.sessions.session_work import OwnedAttempt, SessionWork, mark_ended
from framefarm.server.sessions.tables import sessions
from framefarm.server.storage import keys
from framefarm.server.tenancy import farmwide

FRAME_MEAN_WEIGHT = 0.2
"""Weight of the newest frame in the moving mean that sizes assignments."""


class Reporter:
    """Applies the events of one session's report in order."""

    def __init__(self, tx: Tx, session: SessionRow, state: JobState) -> None:
        self.tx, self.session, self.state = tx, session, state
        self.work = SessionWork(tx, session, state)
        self._saved_now: set[tuple[int, int]] = set()
        """(frame, revision) of the frames that this report commits."""
        self._committed: list[CommittedFrame] = []
        """Earlier commits of the frames that this report saves, and of their neighbours."""
        self._saved_before: set[tuple[int, int]] = set()
        """(frame, revision) of `_committed`."""
        self._known_frames: set[int] = set()
        """Frames that are committed at any revision."""

    def apply(self, events: list[msg.Event]) -> list[msg.Verdict]:
        """Apply the report's events; returns one verdict for each. Call it once."""
        saved = [e for e in events if isinstance(e, msg.FrameSaved) and e.attempt in self.work.owned]
        if saved:
            self._load_committed(saved)
        verdicts = [self._apply_event(event) for event in events]
        self._warn_of_outliers()
        self.work.write()
        if self.work.failed_job:
            scene_warnings.stop_failed(self.tx, self.session, self.state)
        drawn = [e for e in events if isinstance(e, msg.FrameDrawn)]
        if not drawn:
            return verdicts
        stored = frame_checks.record_thumbnails(self.tx, self.state.job_id, self.session.id, drawn)
        return [
            "applied" if isinstance(e, msg.FrameDrawn) and (e.attempt, e.frame) in stored else verdict
            for e, verdict in zip(events, verdicts, strict=True)
        ]

    def _apply_event(self, event: msg.Event) -> msg.Verdict:
        if isinstance(event, msg.BlenderOpened):
            return self._blender_opened(event)
        if isinstance(event, msg.SessionFailed):
            return self._session_ended(event.cause, event.message)
        if isinstance(event, msg.SessionEnded):
            return self._session_ended(event.reason, None)
        attempt = self.work.owned.get(event.attempt)
        if attempt is None or isinstance(event, msg.FrameDrawn):
            return "superseded"
        if isinstance(event, msg.TaskStarted):
            return self._task_started(attempt, event)
        if isinstance(event, msg.FrameSaved):
            return self._frame_saved(attempt, event)
        if isinstance(event, msg.TaskReleased):
            return self._task_released(attempt)
        return self._task_ended(attempt, event)

    def _blender_opened(self, event: msg.BlenderOpened) -> msg.Verdict:
        if self.session.blender is None:
            self.session.blender = event.blender
            key = sessions.c.id == self.session.id
            self.tx.conn.execute(farmwide(sa.update(sessions)).where(key).values(blender=event.blender))
            self.state.loads += 1
            self.state.load_ms += max(0, self.tx.now_ms - (self.session.hello_ms or self.tx.now_ms))
        new = warnings.add(self.tx, self.session.job_id, event.warnings) if event.warnings else []
        if new:
            scene_warnings.hold_or_fail(self.tx, self.session, self.state, new)
        return "applied"

    def _session_ended(self, reason: str, message: str | None) -> msg.Verdict:
        self.work.return_all(message)
        mark_ended(self.tx, self.session, reason, message)
        return "applied"

    def _task_started(self, attempt: OwnedAttempt, event: msg.TaskStarted) -> msg.Verdict:
        attempt.started_mono_ms = event.at_ms
        attempt.started_ms = self._server_ms(event.at_ms)
        self.work.change_attempt(attempt, "started_mono_ms", "started_ms")
        return "applied"

    def _frame_saved(self, attempt: OwnedAttempt, event: msg.FrameSaved) -> msg.Verdict:
        key = (event.frame, attempt.revision)
        if key in self._saved_before or key in self._saved_now:
            return "superseded"
        if event.frame not in FrameSet.from_text(attempt.frames) or not _plausible(event.files):
            return "rejected"
        self._saved_now.add(key)
        tx, state = self.tx, self.state
        self._add_rows(attempt, event)
        state.unpublished += len(event.files)
        if event.frame not in self._known_frames:
            state.frames_done += 1
            self._known_frames.add(event.frame)
        self._count_render_time(round(event.seconds * 1000))
        attempt.frames_done += 1
        attempt.saved_mono_ms = event.at_ms
        self.work.change_attempt(attempt, "frames_done", "saved_mono_ms")
        attempt.task_frames_done += 1
        self.work.task_change(attempt)["frames_done"] = attempt.task_frames_done
        new = warnings.add(tx, state.job_id, event.warnings) if event.warnings else []
        if new:
            scene_warnings.hold_or_fail(tx, self.session, state, new)
        data = {"frame": event.frame, "task": attempt.task_number, "seconds": event.seconds}
        state.emit(tx, "system", "frame.done", data)
        return "applied"

    def _add_rows(self, attempt: OwnedAttempt, event: msg.FrameSaved) -> None:
        state, changes = self.state, self.work.changes
        changes.frames.append(
            NewFrame(
                job_id=state.job_id,
                frame=event.frame,
                part=0,
                revision=attempt.revision,
                task_number=attempt.task_number,
                attempt_id=attempt.id,
                committed_ms=self.tx.now_ms,
                render_ms=round(event.seconds * 1000),
                peak_memory_bytes=event.peak_memory_bytes or None,
                warnings=[warnings.to_json(w) for w in event.warnings] or None,
                look=frame_checks.colour_text(event.look),
            )
        )
        changes.files += [
            NewFile(
                account_id=state.account_id,
                job_id=state.job_id,
                frame=event.frame,
                part=0,
                revision=attempt.revision,
                path=file.path,
                kind=file.kind,
                size=file.size,
                md5=file.md5,
                sha256=file.sha256,
                staged=keys.staging(state.account_id, attempt.id, file.staged),
            )
            for file in event.files
        ]

    def _count_render_time(self, render_ms: int) -> None:
        state, mean = self.state, self.state.frame_ms
        state.frame_ms = render_ms if mean is None else round(mean + FRAME_MEAN_WEIGHT * (render_ms - mean))
        state.timed_frames += 1
        state.timed_ms += render_ms
        state.timed_squares += float(render_ms * render_ms)

    def _task_released(self, attempt: OwnedAttempt) -> msg.Verdict:
        if attempt.started_ms is None and not attempt.frames_done:
            self.work.release(attempt)
        else:  # it had begun: its attempt is kept and billed
            self.work.end(attempt, Outcome.CANCELLED, 0, None, None)
        return "applied"

    def _task_ended(self, attempt: OwnedAttempt, event: msg.TaskEnded) -> msg.Verdict:
        outcome = Outcome(event.outcome)
        cause, message = event.cause, event.message
        if outcome is Outcome.SUCCESS and attempt.frames_done < len(FrameSet.from_text(attempt.frames)):
            outcome, cause = Outcome.FAILED, "frames_missing"
            message = "The machine said it was done, but not every frame arrived."
        if attempt.started_ms is None:
            attempt.started_mono_ms = event.started_ms
            attempt.started_ms = self._server_ms(event.started_ms)
        if event.peak_memory_bytes:
            attempt.peak_memory_bytes = event.peak_memory_bytes
        spent_ms = max(0, event.ended_ms - event.started_ms)
        at_opening = event.frame is None and not attempt.frames_done
        self.work.end(attempt, outcome, spent_ms, cause, message, may_fail_job=True, at_opening=at_opening)
        return "applied"

    def _load_committed(self, saved: list[msg.FrameSaved]) -> None:
        job_id = self.state.job_id
        all_frames = job_terms_of(self.tx, job_id).frames
        self._committed = frame_checks.committed_beside(self.tx, job_id, all_frames, saved)
        self._saved_before = {(row.frame, row.revision) for row in self._committed}
        self._known_frames = {frame for frame, _ in self._saved_before}

    def _warn_of_outliers(self) -> None:
        changes, job_id = self.work.changes, self.state.job_id
        if any(row.look for row in changes.frames) or any(row.look for row in self._committed):
            all_frames = job_terms_of(self.tx, job_id).frames
            for warning in frame_checks.warn_of_outliers(
                self.tx, job_id, all_frames, self._committed, changes.frames, changes.files
            ):
                self.state.emit(self.tx, "system", "frame.warning", warning)

    def _server_ms(self, mono_ms: int) -> int:
        """Server time of a moment on the runner's clock, which began shortly before its hello."""
        return min(self.tx.now_ms, (self.session.hello_ms or self.tx.now_ms) + mono_ms)


_STAGED = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_MD5, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


def _plausible(files: list[msg.StagedFile]) -> bool:
    """Whether these can be a frame's files. A node may be in a stranger's hands, and its names become parts
    of paths."""
    for file in files:
        hashes = _MD5.fullmatch(file.md5) and _SHA256.fullmatch(file.sha256)
        if not (hashes and _STAGED.fullmatch(file.staged) and is_output_name(file.path)):
            return False
    paths, names = {f.path.casefold() for f in files}, {f.staged for f in files}
    return bool(files) and len(paths) == len(names) == len(files) and min(f.size for f in files) >= 0
