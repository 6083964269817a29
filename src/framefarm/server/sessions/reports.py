"""What runners report, applied: frames committed behind the attempt's fence, tasks ended, money metered.

A report's effects and `last_seq` move in one transaction. Set-based: one statement per kind of change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from framefarm.core.frames import FrameSet
from framefarm.core.job import Outcome, SessionState, TaskFacts, TaskStatus, outcome_of, task_after
from framefarm.core.money import affordable_ms, billed_ms, cost_micros
from framefarm.core.paths import is_output_name
from framefarm.core.retry_policy import Failure, stops_early
from framefarm.protocol import node as msg
from framefarm.server.database import Tx
from framefarm.server.jobs import warnings
from framefarm.server.jobs.state import JobState
from framefarm.server.jobs.tables import tasks
from framefarm.server.jobs.task_plans import job_terms_of
from framefarm.server.rows import AttemptRow, SessionRow
from framefarm.server.sessions import frame_checks, ownership, scene_warnings
from framefarm.server.sessions.assignment import committed
from framefarm.server.sessions.tables import attempts, files, frames, leases, sessions
from framefarm.server.storage import keys
from framefarm.server.tenancy import farmwide

PREEMPTED = "Its preemptible machine was given to other work."
TAKEN = "Its machine was taken away by its provider."
NO_PREEMPTIONS_LEFT = (
    "{} Its preemptible_retries ({}) are used up; finished frames are kept: retry the task for the others."
)
FRAME_MEAN_WEIGHT = 0.2
"""Weight of the newest frame in the moving mean that sizes hand-outs."""


@dataclass
class Ledger:
    """What one report changes, gathered to be written at once."""

    frames: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)


_OWNED = farmwide(
    sa.select(
        attempts,
        tasks.c.status.label("task_status"),
        tasks.c.preemptions,
        tasks.c.failures,
        tasks.c.losses,
        tasks.c.frames_done.label("task_frames_done"),
    )
    .select_from(attempts.join(tasks, ownership.OWN))
    .where(attempts.c.session_id == sa.bindparam("session"), attempts.c.outcome.is_(None))
    .order_by(attempts.c.assigned_ms, attempts.c.task_number)
)

_FAILED = (
    farmwide(sa.select(attempts.c.node, attempts.c.cause))
    .where(attempts.c.job_id == sa.bindparam("job"), attempts.c.task_number == sa.bindparam("number"))
    .where(attempts.c.outcome.in_([str(Outcome.FAILED), str(Outcome.TIMED_OUT)]))
    .order_by(attempts.c.ended_ms.desc())
)

_SPENT = (
    farmwide(sa.update(sessions))
    .where(sessions.c.id == sa.bindparam("session"))
    .values(spent_micros=sessions.c.spent_micros + sa.bindparam("more"))
)


@dataclass(slots=True)
class OwnedAttempt(AttemptRow):
    """An open attempt that owns its task, with that task's own facts."""

    task_status: TaskStatus
    preemptions: int
    failures: int
    losses: int
    task_frames_done: int


class Reporter:
    """Applies the events of one session's report in order."""

    def __init__(self, tx: Tx, session: SessionRow, state: JobState) -> None:
        self.tx, self.session, self.state = tx, session, state
        self.out = Ledger()
        self.own = self._owned()
        self.seen: set[tuple[int, int]] = set()
        self.done: set[tuple[int, int]] = set()
        self.around: list[Any] = []
        """Rows of frames that are saved now or beside those, and were committed before."""
        self.known: set[int] = set()
        """Frames that are committed at any revision."""
        self.gave_back = False
        """A task waits for another session now."""
        self.spent_micros = 0
        """What the attempts that end here cost; not in the session's row yet."""

    def _owned(self) -> dict[str, OwnedAttempt]:
        """The session's open attempts that still own their task, with the task's own facts."""
        rows = self.tx.rows(OwnedAttempt, _OWNED, {"session": self.session.id})
        return {attempt.id: attempt for attempt in rows}

    def apply(self, events: list[msg.Event]) -> list[msg.Verdict]:
        """One verdict per event."""
        saved = [e for e in events if isinstance(e, msg.FrameSaved) and e.attempt in self.own]
        if saved:
            self._find_committed(saved)
        verdicts = [self._one(event) for event in events]
        self._judge()
        self._write()
        drawn = [e for e in events if isinstance(e, msg.FrameDrawn)]
        if not drawn:
            return verdicts
        kept = frame_checks.keep_thumbnails(self.tx, self.state.job_id, self.session.id, drawn)
        return [
            "applied" if isinstance(e, msg.FrameDrawn) and (e.attempt, e.frame) in kept else verdict
            for e, verdict in zip(events, verdicts, strict=True)
        ]

    def _one(self, event: msg.Event) -> msg.Verdict:
        if isinstance(event, msg.BlenderOpened):
            return self._opened(event)
        if isinstance(event, msg.SessionFailed):
            end_session(self.tx, self.session, self.state, event.cause, event.message, self)
            return "applied"
        if isinstance(event, msg.SessionEnded):
            end_session(self.tx, self.session, self.state, event.reason, None, self)
            return "applied"
        attempt = self.own.get(event.attempt)
        if attempt is None or isinstance(event, msg.FrameDrawn):
            return "superseded"
        if isinstance(event, msg.TaskStarted):
            return self._started(attempt, event)
        if isinstance(event, msg.FrameSaved):
            return self._saved(attempt, event)
        if isinstance(event, msg.TaskReleased):
            if attempt.started_ms is None and not attempt.frames_done:
                return self._released(attempt)
            self.end(attempt, Outcome.CANCELLED, 0, None, None)  # begun after all: it stays, and is metered
            return "applied"
        return self._ended(attempt, event)

    # -- events

    def _opened(self, event: msg.BlenderOpened) -> msg.Verdict:
        if self.session.blender is None:
            self.session.blender = event.blender
            self._update_session(blender=event.blender)
            self.state.loads += 1
            self.state.load_ms += max(0, self.tx.now_ms - (self.session.hello_ms or self.tx.now_ms))
        fresh = warnings.add(self.tx, self.session.job_id, event.warnings) if event.warnings else []
        if fresh:
            scene_warnings.judge(self.tx, self.session, self.state, fresh)
        return "applied"

    def _started(self, attempt: OwnedAttempt, event: msg.TaskStarted) -> msg.Verdict:
        attempt.started_mono_ms = event.at_ms
        attempt.started_ms = self._wall(event.at_ms)
        self._change(attempt, "started_mono_ms", "started_ms")
        return "applied"

    def _saved(self, attempt: OwnedAttempt, event: msg.FrameSaved) -> msg.Verdict:
        key = (event.frame, attempt.revision)
        if key in self.done or key in self.seen:
            return "superseded"
        if event.frame not in FrameSet.from_text(attempt.frames) or not _plausible(event.files):
            return "rejected"
        self.seen.add(key)
        number, tx, state = attempt.task_number, self.tx, self.state
        render_ms = round(event.seconds * 1000)
        self.out.frames.append(
            {
                "job_id": state.job_id,
                "frame": event.frame,
                "part": 0,
                "revision": attempt.revision,
                "task_number": number,
                "attempt_id": attempt.id,
                "committed_ms": tx.now_ms,
                "render_ms": render_ms,
                "peak_memory_bytes": event.peak_memory_bytes or None,
                "warnings": [warnings.row(n) for n in event.warnings] or None,
                "look": frame_checks.look_text(event.look),
            }
        )
        for file in event.files:
            self.out.files.append(
                {
                    "account_id": state.account_id,
                    "job_id": state.job_id,
                    "frame": event.frame,
                    "part": 0,
                    "revision": attempt.revision,
                    "path": file.path,
                    "kind": file.kind,
                    "size": file.size,
                    "md5": file.md5,
                    "sha256": file.sha256,
                    "staged": keys.staging(state.account_id, attempt.id, file.staged),
                }
            )
        state.unpublished += len(event.files)
        if event.frame not in self.known:
            state.frames_done += 1
            self.known.add(event.frame)
        mean = state.frame_ms
        state.frame_ms = render_ms if mean is None else round(mean + FRAME_MEAN_WEIGHT * (render_ms - mean))
        state.timed_frames += 1
        state.timed_ms += render_ms
        state.timed_squares += float(render_ms * render_ms)
        attempt.frames_done += 1
        attempt.saved_mono_ms = event.at_ms
        self._change(attempt, "frames_done", "saved_mono_ms")
        attempt.task_frames_done += 1
        self._task(attempt)["frames_done"] = attempt.task_frames_done
        if event.warnings:
            warnings.add(tx, state.job_id, event.warnings)
        state.emit(
            tx, "system", "frame.done", {"frame": event.frame, "task": number, "seconds": event.seconds}
        )
        return "applied"

    def _released(self, attempt: OwnedAttempt) -> msg.Verdict:
        """Never begun: it leaves no trace but a task that waits again."""
        self.out.attempts.pop(attempt.id, None)
        self.out.gone.append(attempt.id)
        task = self._task(attempt)
        status = TaskStatus.CANCELLED if self._stopped else TaskStatus.PENDING
        self.state.move(attempt.task_number, TaskStatus.RUNNING, status)
        self.gave_back = True
        task.update(status=status, attempt_id=None, given_back=True)
        del self.own[attempt.id]
        return "applied"

    def _ended(self, attempt: OwnedAttempt, event: msg.TaskEnded) -> msg.Verdict:
        outcome = Outcome(event.outcome)
        cause, message = event.cause, event.message
        if outcome is Outcome.SUCCESS and attempt.frames_done < len(FrameSet.from_text(attempt.frames)):
            outcome, cause = Outcome.FAILED, "frames_missing"
            message = "The machine said it was done, but not every frame arrived."
        if attempt.started_ms is None:
            attempt.started_mono_ms = event.started_ms
            attempt.started_ms = self._wall(event.started_ms)
        if event.peak_memory_bytes:
            attempt.peak_memory_bytes = event.peak_memory_bytes
        spent = max(0, event.ended_ms - event.started_ms)
        self.end(attempt, outcome, spent, cause, message)
        return "applied"

    # -- ends

    @property
    def _stopped(self) -> bool:
        """The whole job was cancelled, or has failed: nothing of it is tried again."""
        return self.state.facts.cancel_asked or self.state.facts.failed

    def end(
        self, attempt: OwnedAttempt, outcome: Outcome, spent_ms: int, cause: str | None, message: str | None
    ) -> None:
        """End an attempt: meter it, and put its task where the rules say."""
        state, number = self.state, attempt.task_number
        cancelled = self._stopped
        outcome = outcome_of(
            outcome, preempted=self.session.preempt_ms is not None, withdrawn=bool(state.facts.holds)
        )
        if outcome is Outcome.PREEMPTED:
            cause, message = "preempted", TAKEN if self.session.taken else PREEMPTED
        began_ms = attempt.started_mono_ms or 0
        billed = self._affordable(
            attempt,
            billed_ms(
                outcome,
                started_ms=began_ms,
                ended_ms=max(began_ms + spent_ms, attempt.saved_mono_ms or 0),
                last_commit_ms=attempt.saved_mono_ms,
                limit_ms=self.tx.now_ms - attempt.assigned_ms,
            ),
        )
        cost = cost_micros(billed, attempt.price_micros)
        self.spent_micros += cost
        if outcome is not Outcome.LOST:
            state.billed_frames += attempt.frames_done
            state.billed_ms += billed
        attempt.outcome = outcome
        attempt.ended_ms = self.tx.now_ms
        attempt.cause, attempt.message = cause, message
        attempt.billed_ms, attempt.cost_micros = billed, cost
        state.cost_micros += attempt.cost_micros
        self._change(
            attempt,
            "outcome", "ended_ms", "cause", "message", "billed_ms", "cost_micros",
            "started_ms", "started_mono_ms", "peak_memory_bytes",
        )  # fmt: skip
        terms = job_terms_of(self.tx, state.job_id)
        before = TaskFacts(
            TaskStatus.RUNNING,
            attempt.preemptions,
            attempt.failures,
            attempt.losses,
            terms.preemptible_retries,
            terms.task_retries,
        )
        after = task_after(
            before,
            outcome,
            committed_frames=attempt.frames_done,
            given_back=not cancelled,
            preemptible=attempt.preemptible,
        )
        status = after.status
        failed = outcome in {Outcome.FAILED, Outcome.TIMED_OUT}
        if failed and status is TaskStatus.PENDING and (why := self._stops_early(attempt, before.failures)):
            status, message = TaskStatus.FAILED, f"{message} {why}"
        if cancelled and status is TaskStatus.PENDING:
            status = TaskStatus.CANCELLED
        if status is TaskStatus.PENDING and attempt.frames_done and self._complete(attempt):
            status = TaskStatus.SUCCESS  # its last frame was committed before its end was told
        change = self._task(attempt)
        change.update(
            status=status, preemptions=after.preemptions, failures=after.failures, losses=after.losses
        )
        if status is TaskStatus.SUCCESS:
            change.update(redo=None, cause=None, reason=None)
        elif message:
            change.update(cause=cause, reason=message)
        if status is TaskStatus.PREEMPTED:
            change["reason"] = NO_PREEMPTIONS_LEFT.format(message, terms.preemptible_retries)
        if failed and status is TaskStatus.PENDING:
            change["not_before_ms"] = self.tx.now_ms + 1000 * 2 ** min(after.failures - 1, 6)
        state.move(number, TaskStatus.RUNNING, status)
        self.gave_back = self.gave_back or status is TaskStatus.PENDING
        if outcome is not Outcome.SUCCESS:
            data = {"task": number, "outcome": str(outcome), "status": str(status), "cause": cause}
            state.emit(self.tx, "system", "task.attempt_ended", data | {"message": message})
        self.own.pop(attempt.id, None)

    def _stops_early(self, attempt: OwnedAttempt, failures: int) -> str | None:
        """Why the task is not tried again, if its last failures say so."""
        if not failures:
            return None
        query = _FAILED.limit(failures)
        rows = self.tx.conn.execute(query, {"job": self.state.job_id, "number": attempt.task_number})
        return stops_early(Failure(attempt.node, attempt.cause), [Failure(*row) for row in rows])

    def forfeit(self, message: str | None) -> None:
        """All that the session still owns goes back: what was begun is the farm's loss."""
        for attempt in list(self.own.values()):
            if attempt.started_ms is None and "outcome" not in self.out.attempts.get(attempt.id, {}):
                self._released(attempt)
            else:
                text = message or "The machine was lost while it rendered."
                self.end(attempt, Outcome.LOST, 0, "machine_lost", text)

    def _affordable(self, attempt: OwnedAttempt, billed: int) -> int:
        """No more than what the budgets above have given the session; the farm bears the rest."""
        cap = self.session.cost_cap_micros
        if cap is None:
            return billed
        left = cap - self.session.spent_micros - self.spent_micros
        affordable = affordable_ms(left, attempt.price_micros)
        return billed if affordable is None else min(billed, affordable)

    def _complete(self, attempt: OwnedAttempt) -> bool:
        wanted = FrameSet.from_text(attempt.frames)
        here = {f["frame"] for f in self.out.frames if f["attempt_id"] == attempt.id}
        done = committed(self.tx, self.state.job_id, attempt.task_number, attempt.revision)
        return all(f in done or f in here for f in wanted)

    # -- writing

    def _write(self) -> None:
        conn, out = self.tx.conn, self.out
        if self.spent_micros:
            self.session.spent_micros += self.spent_micros
            conn.execute(_SPENT, {"session": self.session.id, "more": self.spent_micros})
            self.spent_micros = 0
        if out.frames:
            conn.execute(sa.insert(frames), out.frames)
            conn.execute(sa.insert(files), out.files)
        for names, rows in _by_shape(out.attempts):
            conn.execute(_update_attempts(names), rows)
        if out.gone:
            conn.execute(farmwide(sa.delete(attempts)).where(attempts.c.id.in_(out.gone)))
        for number, change in out.tasks.items():
            if change.pop("given_back", False):
                change["attempt_count"] = tasks.c.attempt_count - 1
                self._write_task(number, change)
        plain = {n: c for n, c in out.tasks.items() if "attempt_count" not in c}
        for names, rows in _by_shape(plain):
            conn.execute(_update_tasks(names), [row | {"job": self.state.job_id} for row in rows])

    def _write_task(self, number: int, change: dict[str, Any]) -> None:
        key = (tasks.c.job_id == self.state.job_id) & (tasks.c.number == number)
        self.tx.conn.execute(sa.update(tasks).where(key).values(change))

    def _task(self, attempt: OwnedAttempt) -> dict[str, Any]:
        return self.out.tasks.setdefault(attempt.task_number, {})

    def _change(self, attempt: OwnedAttempt, *names: str) -> None:
        self.out.attempts.setdefault(attempt.id, {}).update({name: getattr(attempt, name) for name in names})

    def _update_session(self, **changes: Any) -> None:
        key = sessions.c.id == self.session.id
        self.tx.conn.execute(farmwide(sa.update(sessions)).where(key).values(changes))

    def _find_committed(self, saved: list[msg.FrameSaved]) -> None:
        job_id = self.state.job_id
        self.around = frame_checks.around(self.tx, job_id, job_terms_of(self.tx, job_id).frames, saved)
        self.done = {(row["frame"], row["revision"]) for row in self.around}
        self.known = {f for f, _ in self.done}

    def _judge(self) -> None:
        saved, job_id = self.out.frames, self.state.job_id
        if any(row["look"] for row in (*saved, *self.around)):
            whole = job_terms_of(self.tx, job_id).frames
            for warned in frame_checks.judge(self.tx, job_id, whole, self.around, saved, self.out.files):
                self.state.emit(self.tx, "system", "frame.warning", warned)

    def _wall(self, mono_ms: int) -> int:
        """Server time of a moment on the runner's clock, which began shortly before its hello."""
        return min(self.tx.now_ms, (self.session.hello_ms or self.tx.now_ms) + mono_ms)


@lru_cache(maxsize=64)
def _update_attempts(names: tuple[str, ...]) -> sa.Update:
    statement = farmwide(sa.update(attempts)).where(attempts.c.id == sa.bindparam("key"))
    return statement.values({n: sa.bindparam(n) for n in names})


@lru_cache(maxsize=64)
def _update_tasks(names: tuple[str, ...]) -> sa.Update:
    key = (tasks.c.job_id == sa.bindparam("job")) & (tasks.c.number == sa.bindparam("key"))
    return sa.update(tasks).where(key).values({n: sa.bindparam(n) for n in names})


def _by_shape(changes: dict[Any, dict[str, Any]]) -> list[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    """Rows with the same changed columns together, so that each group is one executemany."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, change in changes.items():
        if change:
            groups.setdefault(tuple(change), []).append({"key": key, **change})
    return list(groups.items())


_STAGED = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_MD5, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


def _plausible(files: list[msg.StagedFile]) -> bool:
    """Whether these can be a frame's files: a machine may be in a stranger's hands; its names are joined."""
    for file in files:
        hashes = _MD5.fullmatch(file.md5) and _SHA256.fullmatch(file.sha256)
        if not (hashes and _STAGED.fullmatch(file.staged) and is_output_name(file.path)):
            return False
    paths, names = {f.path.casefold() for f in files}, {f.staged for f in files}
    return bool(files) and len(paths) == len(names) == len(files) and min(f.size for f in files) >= 0


def end_session(
    tx: Tx,
    session: SessionRow,
    state: JobState,
    reason: str,
    message: str | None,
    reporter: Reporter | None = None,
) -> None:
    """A session is over: what it still owned goes back as the farm's loss. Its lease goes with it."""
    mine = reporter or Reporter(tx, session, state)
    mine.forfeit(message)
    if reporter is None:
        mine.apply([])
    session.ended, session.state = True, SessionState.ENDED
    tx.conn.execute(
        farmwide(sa.update(sessions))
        .where(sessions.c.id == session.id)
        .values(
            ended=True, state=SessionState.ENDED, ended_ms=tx.now_ms, end_reason=reason, end_message=message
        )
    )
    tx.conn.execute(sa.delete(leases).where(leases.c.session_id == session.id))
