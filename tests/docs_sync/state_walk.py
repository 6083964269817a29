"""Every way a small job can go, one event at a time, by the rules of `core/job.py` and its kin.

The job has a handful of tasks, each with its own status; the facts that `core/job.py` judges are counted from
them. `arrows` walks all states that can be reached and gathers which status follows on which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from framefarm.core import job as rules
from framefarm.core.job import Change, JobFacts, TaskStatus
from framefarm.core.task_outcomes import FARM_LOSSES, Outcome, TaskFacts, task_after

ENDED = {"success", "failed", "preempted", "cancelled"}
Arrow = tuple[str, str]


@dataclass(frozen=True)
class Job:
    tasks: tuple[str | None, ...]
    """None: never handed out."""
    scouts: int = 0
    known: bool = True
    """The frames were given by number, not as a pick from the scene's."""
    missing: bool = False
    read: bool = False
    depends: bool = False
    holds: frozenset[str] = frozenset()
    gate: bool = False
    cancel: bool = False
    failed: bool = False
    unpublished: bool = False

    @cached_property
    def facts(self) -> JobFacts:
        count = self.tasks.count
        return JobFacts(
            next=len(self.tasks) - count(None),
            task_count=len(self.tasks) if self.known else None,
            scout_count=self.scouts if self.known else 0,
            holds=self.holds,
            gate_open=self.gate,
            missing=int(self.missing),
            scene_read=self.read,
            depends_left=int(self.depends),
            cancel_asked=self.cancel,
            failed=self.failed,
            pending=count("pending"),
            running=count("running"),
            success=count("success"),
            failures=count("failed"),
            preempted=count("preempted"),
            scouts_ended=sum(t in ENDED for t in self.tasks[: self.scouts]),
            unpublished=int(self.unpublished),
        )

    @property
    def status(self) -> str:
        return str(rules.job_status(self.facts))

    @property
    def retriable(self) -> bool:
        return self.known and not self.cancel and not self.failed

    def task_status(self, number: int) -> str:
        """As the API shows it."""
        row = self.tasks[number]
        if row is None:
            return str(rules.untouched_status(self.facts, number))
        return "waiting" if row == "pending" and not self.facts.may_start else row

    def put(self, number: int, status: str) -> Job:
        return replace(self, tasks=(*self.tasks[:number], status, *self.tasks[number + 1 :]))


def after(job: Job) -> Iterator[Job]:
    """Every state that one event leads to."""
    yield from _inputs(job)
    yield from _people(job)
    for number, status in enumerate(job.tasks):
        yield from _task(job, number, status)
    if job.unpublished:
        yield replace(job, unpublished=False)


def _inputs(job: Job) -> Iterator[Job]:
    if job.missing:
        yield replace(job, missing=False)
    elif not (job.read or job.failed or job.cancel):
        yield replace(job, read=True, known=True)
        yield replace(job, failed=True)  # its scene can't be used
    if job.depends:
        yield replace(job, depends=False)
        if job.status not in {"success", "failed", "cancelled"}:
            yield replace(job, holds=job.holds | {"dependency"})


def _people(job: Job) -> Iterator[Job]:
    for action in (rules.hold, rules.unhold, rules.cancel):
        try:
            change: Change = action(job.facts)
        except rules.Refused:
            continue  # the state forbids it
        then = replace(job, holds=change.holds, gate=change.gate_open, cancel=job.cancel or change.cancel)
        if "dependency" in job.holds - change.holds:
            then = replace(then, depends=False)
        if change.cancel:
            then = replace(then, tasks=tuple("cancelled" if t == "pending" else t for t in then.tasks))
        yield then
    if job.retriable:
        for again in ({"failed", "preempted"}, {"success"}):  # all failed ones, or frames of all others
            yield replace(job, tasks=tuple("pending" if t in again else t for t in job.tasks))


def _task(job: Job, number: int, status: str | None) -> Iterator[Job]:
    if job.facts.ready and (status == "pending" or (status is None and job.facts.next == number)):
        if status == "pending" or number < job.facts.limit:
            yield job.put(number, "running")
    elif status == "running":
        yield replace(job, unpublished=True)  # a frame is committed
        yield job.put(number, "cancelled" if job.cancel else "pending")  # given back unbegun
        for end in _ends(given_back=not job.cancel):
            yield job.put(number, "cancelled" if job.cancel and end == "pending" else end)
    elif status in {"failed", "preempted", "success"} and job.retriable:
        yield job.put(number, "pending")  # retried, or rendered again on purpose


def _ends(*, given_back: bool) -> set[str]:
    """Where `task_after` can put a task that runs, whatever is left of its patience."""
    found = set()
    for outcome in Outcome:
        for left in (0, 1):
            losses = FARM_LOSSES if left == 0 else 0
            facts = TaskFacts(TaskStatus.RUNNING, 0, 0, losses, preemptible_retries=left, task_retries=left)
            for committed in (0, 1):
                end = task_after(facts, outcome, committed_frames=committed, given_back=given_back)
                found.add(str(end.status))
    return found


def beginnings() -> Iterator[Job]:
    for missing in (False, True):
        for known in (False, True):
            for scouts in (0, 1):
                for depends in (False, True):
                    for holds in (frozenset[str](), frozenset({"user"})):
                        job = Job((None, None), scouts=scouts, known=known, missing=missing)
                        yield replace(job, depends=depends, holds=holds)


def arrows() -> tuple[set[Arrow], set[Arrow]]:
    """(of jobs, of tasks): which status can follow directly on which."""
    of_jobs: set[Arrow] = set()
    of_tasks: set[Arrow] = set()
    todo = list(beginnings())
    seen = set(todo)
    while todo:
        job = todo.pop()
        for then in after(job):
            of_jobs.add((job.status, then.status))
            of_tasks |= {(job.task_status(n), then.task_status(n)) for n in range(len(job.tasks))}
            if then not in seen:
                seen.add(then)
                todo.append(then)
    return {a for a in of_jobs if a[0] != a[1]}, {a for a in of_tasks if a[0] != a[1]}
