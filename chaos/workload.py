"""An artist's work during faults: submits, holds, cancels, uploads, and records what the farm acknowledged.

A call without a response is repeated with the same `Idempotency-Key` until it gets one. So each change has a
definite outcome, however often the farm was killed meanwhile.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from farm import ChaosFarm

from framefarm.core.frame_grammar import parse
from framefarm.core.frames import FrameSet

MAX_OPEN_JOBS = 4
SCENE_PATH = "/chaos/scene.blend"
FINISHED = {"success", "failed", "cancelled"}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class KnownJob:
    """A job as the farm has acknowledged it. Times are in milliseconds since 1970."""

    id: str
    title: str
    frames: FrameSet
    priority: int | None
    """None after a refused change: an earlier call without a response may have made it."""
    missing: str | None = None
    """Path of the input that the job still waits for."""
    held_since_ms: int | None = None
    holds: list[tuple[int, int]] = field(default_factory=list)
    """Spans in which no task may be assigned: from the response to a hold to the request that ended it."""
    cancelled_ms: int | None = None
    deleted: bool = False
    redone: dict[int, int] = field(default_factory=dict)
    """Frame → time of the last acknowledged request to render it again."""
    status: str = "pending"
    reasons: list[str] = field(default_factory=list)


class Workload(threading.Thread):
    """Acts at random until `stop`. Then the farm must know all of `jobs`, `uploads` and `projects`."""

    def __init__(self, farm: ChaosFarm, scene: bytes, rng: random.Random) -> None:
        super().__init__(name="artist", daemon=True)
        self.farm, self.rng, self.scene = farm, rng, scene
        self.client = httpx2.Client(timeout=20, headers={"Authorization": f"Bearer {farm.token}"})
        self.jobs: list[KnownJob] = []
        self.uploads: dict[str, str] = {}
        """Path → SHA-256 of its content."""
        self.projects: list[str] = []
        self.changes: Counter[str] = Counter()
        self.repeated_calls = 0
        self.unexpected: str | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._act()
                self._stopping.wait(self.rng.uniform(0.1, 1.2))
        except Exception as error:
            self.unexpected = f"a call got an unexpected response: {error!r}"

    def stop(self) -> None:
        """Finish the current change, and end the thread."""
        self._stopping.set()
        self.join(120)

    # -- calls

    def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Make a call until it gets a response other than 5xx, 429 and 409 with `Retry-After`."""
        headers = (
            {"Idempotency-Key": uuid.UUID(int=self.rng.getrandbits(128)).hex} if method == "POST" else {}
        )
        while True:
            try:
                base = self.farm.direct
                if base is not None:
                    answer = self.client.request(method, base + path, headers=headers, **more)
                    in_flight = answer.status_code == 409 and "retry-after" in answer.headers
                    if answer.status_code < 500 and answer.status_code != 429 and not in_flight:
                        return answer
            except httpx2.TransportError:
                pass
            self.repeated_calls += 1
            time.sleep(0.2)

    def upload(self, path: str, content: bytes) -> None:
        answer = self.call("POST", "/api/uploads/file", data={"path": path}, files={"file": ("f", content)})
        assert answer.status_code == 200, answer.text
        assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest(), answer.text
        self.uploads[path] = hashlib.sha256(content).hexdigest()
        self.changes["upload"] += 1

    def poll(self) -> list[KnownJob]:
        """Update all jobs by the API. Returns those that are not finished."""
        open_jobs = []
        for job in self.jobs:
            if job.deleted or (job.status in FINISHED and not job.redone):
                continue
            body = self.call("GET", f"/api/jobs/{job.id}").json()
            job.status, job.reasons = body["status"], body["hold_reasons"]
            if job.status not in FINISHED:
                open_jobs.append(job)
        return open_jobs

    # -- actions

    def _act(self) -> None:
        open_jobs = self.poll()
        for job in open_jobs:
            if job.reasons == ["scouts"]:
                self._patch(job, "unhold", {"action": "unhold"})
        if len(open_jobs) < MAX_OPEN_JOBS and self.rng.random() < 0.8:
            self._submit()
            return
        acts = [
            self._priority,
            self._hold,
            self._unhold,
            self._cancel,
            self._upload_missing,
            self._render_again,
            self._upload,
        ]
        acts += [self._project, self._delete_job]
        weights = [4, 4, 6, 1, 6, 4, 3, 1, 2]
        self.rng.choices(acts, weights)[0](open_jobs)

    def _submit(self) -> None:
        rng, number = self.rng, len(self.jobs)
        first, count = rng.randint(-5, 50), rng.choice([1, 6, 12, 25, 40])
        spec = f"{first}-{first + count - 1}" if rng.random() < 0.7 else f"{first}-{first + 2 * count - 1}x2"
        late = f"/chaos/late-{number}.bin" if rng.random() < 0.2 else None
        fields = {
            "job_title": f"chaos {number}",
            "project": "default",
            "instance_type": rng.choice(["local-1", "local-1", "local-1", "local-2"]),
            "frame_range": spec,
            "blender_version": "blender-4-2",
            "output_path": f"chaos/{number}",
            "upload_paths": [SCENE_PATH, *([late] if late else [])],
            "chunk_size": rng.choice([1, 2, 5, 20]),
            "scout_frames": rng.choice(["", "", "", "fml:2"]),
            "samples": rng.choice([1, 1, 64, 1024]),
            "priority": rng.randint(0, 100),
            "preemptible": rng.random() < 0.7,
            "task_retries": 100,
            "preemptible_retries": 100,
        }
        answer = self.call("POST", "/api/jobs", json=fields)
        assert answer.status_code == 201, answer.text
        frames = parse(spec)
        assert isinstance(frames, FrameSet)
        self.jobs.append(
            KnownJob(answer.json()["id"], f"chaos {number}", frames, int(fields["priority"]), missing=late)  # type: ignore[call-overload]
        )
        self.changes["submit"] += 1

    def _patch(self, job: KnownJob, name: str, body: dict[str, Any]) -> bool:
        """Change a job. False if the farm refused it, as for a job that has finished meanwhile."""
        answer = self.call("PATCH", f"/api/jobs/{job.id}", json=body)
        assert answer.status_code in {200, 409}, answer.text
        if answer.status_code == 200:
            self.changes[name] += 1
        return answer.status_code == 200

    def _pick(self, jobs: list[KnownJob]) -> KnownJob | None:
        return self.rng.choice(jobs) if jobs else None

    def _priority(self, open_jobs: list[KnownJob]) -> None:
        job, priority = self._pick(open_jobs), self.rng.randint(0, 100)
        if job:
            job.priority = priority if self._patch(job, "priority", {"priority": priority}) else None

    def _hold(self, open_jobs: list[KnownJob]) -> None:
        job = self._pick([j for j in open_jobs if j.held_since_ms is None])
        drain = self.rng.random() < 0.7
        if job and self._patch(job, "hold", {"action": "hold", "drain": drain}):
            job.held_since_ms = now_ms()

    def _unhold(self, open_jobs: list[KnownJob]) -> None:
        job = self._pick([j for j in open_jobs if j.held_since_ms is not None])
        if job:
            self.unhold(job)

    def unhold(self, job: KnownJob) -> None:
        """Release an artist's hold of the job."""
        assert job.held_since_ms is not None
        job.holds.append((job.held_since_ms, now_ms()))
        job.held_since_ms = None
        self._patch(job, "unhold", {"action": "unhold"})

    def _cancel(self, open_jobs: list[KnownJob]) -> None:
        job = self._pick(open_jobs)
        if job and self._patch(job, "cancel", {"action": "cancel"}):
            job.cancelled_ms = now_ms()
            job.held_since_ms = None

    def _upload_missing(self, open_jobs: list[KnownJob]) -> None:
        job = self._pick([j for j in open_jobs if j.missing])
        if job:
            self.upload_missing(job)

    def upload_missing(self, job: KnownJob) -> None:
        """Upload the input that the job waits for."""
        assert job.missing is not None
        self.upload(job.missing, self.rng.randbytes(2000))
        job.missing = None

    def _render_again(self, _open: list[KnownJob]) -> None:
        job = self._pick([j for j in self.jobs if j.status == "success" and not j.deleted])
        if job is None:
            return
        frames = sorted(self.rng.sample(list(job.frames), min(3, len(job.frames))))
        asked_ms = now_ms()
        answer = self.call("POST", f"/api/jobs/{job.id}/retry", json={"frames": ",".join(map(str, frames))})
        assert answer.status_code in {200, 202, 409}, answer.text
        if answer.status_code != 409:
            job.redone |= dict.fromkeys(frames, asked_ms)
            job.status = "pending"
            self.changes["retry"] += 1

    def _upload(self, _open: list[KnownJob]) -> None:
        path = f"/chaos/files/{self.rng.randint(0, 20)}.bin"
        self.upload(path, self.rng.randbytes(self.rng.choice([10, 5000, 2_000_000])))

    def _project(self, _open: list[KnownJob]) -> None:
        name = f"project {len(self.projects)}"
        answer = self.call("POST", "/api/projects", json={"name": name})
        assert answer.status_code == 201, answer.text
        self.projects.append(name)
        self.changes["project"] += 1

    def _delete_job(self, _open: list[KnownJob]) -> None:
        job = self._pick([j for j in self.jobs if j.status == "cancelled" and not j.deleted])
        if job:
            answer = self.call("DELETE", f"/api/jobs/{job.id}")
            assert answer.status_code in {200, 204, 404, 409}, (
                answer.text
            )  # 404: deleted before, and the response was lost
            if answer.status_code != 409:
                job.deleted = True
                self.changes["delete"] += 1
