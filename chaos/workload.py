"""People at work meanwhile: they submit, hold, cancel, upload, and remember what the farm acknowledged.

A call without an answer is made again, with the same `Idempotency-Key`, until there is one: so each change
has a definite outcome, however often the farm was killed on the way.
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
from farm import Farm

from framefarm.core.frame_grammar import parse
from framefarm.core.frames import FrameSet

MOST_OPEN = 4
SCENE_PATH = "/chaos/scene.blend"
FINISHED = {"success", "failed", "cancelled"}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Known:
    """A job as the farm has acknowledged it."""

    id: str
    title: str
    frames: FrameSet
    priority: int | None
    """None: a change was refused after a call without an answer, and may have been made before."""
    missing: str | None = None
    """An input that it still waits for."""
    held_since_ms: int | None = None
    holds: list[tuple[int, int]] = field(default_factory=list)
    """Moments between which nothing may have been handed out: from an answer to the next request."""
    cancelled_ms: int | None = None
    deleted: bool = False
    redone: dict[int, int] = field(default_factory=dict)
    """Frame → when rendering it again was last asked for; it was granted."""
    status: str = "pending"
    reasons: list[str] = field(default_factory=list)


class Stopped(Exception):
    """The storm is over."""


class Workload(threading.Thread):
    """Works until `stop`; then `jobs`, `uploads` and `projects` are what the farm must know."""

    def __init__(self, farm: Farm, scene: bytes, rng: random.Random) -> None:
        super().__init__(name="artist", daemon=True)
        self.farm, self.rng, self.scene = farm, rng, scene
        self.client = httpx2.Client(timeout=20, headers={"Authorization": f"Bearer {farm.token}"})
        self.jobs: list[Known] = []
        self.uploads: dict[str, str] = {}
        """Path → SHA-256."""
        self.projects: list[str] = []
        self.made: Counter[str] = Counter()
        self.again = 0
        """Calls that had to be made again."""
        self.trouble: str | None = None
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._one()
                self._over.wait(self.rng.uniform(0.1, 1.2))
        except Stopped:
            pass
        except Exception as error:
            self.trouble = f"an artist was answered what no artist expects: {error!r}"

    def stop(self) -> None:
        """The change in work is finished first."""
        self._over.set()
        self.join(120)

    # -- calls

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Until it is answered. 5xx, 429 and a twin in flight are no answers."""
        headers = (
            {"Idempotency-Key": uuid.UUID(int=self.rng.getrandbits(128)).hex} if method == "POST" else {}
        )
        while True:
            try:
                base = self.farm.direct
                if base is not None:
                    answer = self.client.request(method, base + path, headers=headers, **more)
                    again = answer.status_code == 409 and "retry-after" in answer.headers
                    if answer.status_code < 500 and answer.status_code != 429 and not again:
                        return answer
            except httpx2.TransportError:
                pass
            self.again += 1
            time.sleep(0.2)

    def upload(self, path: str, content: bytes) -> None:
        answer = self.ask("POST", "/api/uploads/file", data={"path": path}, files={"file": ("f", content)})
        assert answer.status_code == 200, answer.text
        assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest(), answer.text
        self.uploads[path] = hashlib.sha256(content).hexdigest()
        self.made["upload"] += 1

    def look(self) -> list[Known]:
        """The jobs that are not finished, as they stand now."""
        open_jobs = []
        for job in self.jobs:
            if job.deleted or (job.status in FINISHED and not job.redone):
                continue
            said = self.ask("GET", f"/api/jobs/{job.id}").json()
            job.status, job.reasons = said["status"], said["hold_reasons"]
            if job.status not in FINISHED:
                open_jobs.append(job)
        return open_jobs

    # -- what they do

    def _one(self) -> None:
        open_jobs = self.look()
        for job in open_jobs:
            if job.reasons == ["scouts"]:
                self._patch(job, "unhold", {"action": "unhold"})
        if len(open_jobs) < MOST_OPEN and self.rng.random() < 0.8:
            self._submit()
            return
        acts = [
            self._priority,
            self._hold,
            self._unhold,
            self._cancel,
            self._arrive,
            self._redo,
            self._upload,
        ]
        acts += [self._project, self._remove]
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
        answer = self.ask("POST", "/api/jobs", json=fields)
        assert answer.status_code == 201, answer.text
        frames = parse(spec)
        assert isinstance(frames, FrameSet)
        self.jobs.append(
            Known(answer.json()["id"], f"chaos {number}", frames, int(fields["priority"]), missing=late)  # type: ignore[call-overload]
        )
        self.made["submit"] += 1

    def _patch(self, job: Known, name: str, body: dict[str, Any]) -> bool:
        """True if it was granted; a job that has finished meanwhile refuses."""
        answer = self.ask("PATCH", f"/api/jobs/{job.id}", json=body)
        assert answer.status_code in {200, 409}, answer.text
        if answer.status_code == 200:
            self.made[name] += 1
        return answer.status_code == 200

    def _pick(self, jobs: list[Known]) -> Known | None:
        return self.rng.choice(jobs) if jobs else None

    def _priority(self, open_jobs: list[Known]) -> None:
        job, wanted = self._pick(open_jobs), self.rng.randint(0, 100)
        if job:
            job.priority = wanted if self._patch(job, "priority", {"priority": wanted}) else None

    def _hold(self, open_jobs: list[Known]) -> None:
        job = self._pick([j for j in open_jobs if j.held_since_ms is None])
        drain = self.rng.random() < 0.7
        if job and self._patch(job, "hold", {"action": "hold", "drain": drain}):
            job.held_since_ms = now_ms()

    def _unhold(self, open_jobs: list[Known]) -> None:
        job = self._pick([j for j in open_jobs if j.held_since_ms is not None])
        if job:
            self.unhold(job)

    def unhold(self, job: Known) -> None:
        assert job.held_since_ms is not None
        job.holds.append((job.held_since_ms, now_ms()))
        job.held_since_ms = None
        self._patch(job, "unhold", {"action": "unhold"})

    def _cancel(self, open_jobs: list[Known]) -> None:
        job = self._pick(open_jobs)
        if job and self._patch(job, "cancel", {"action": "cancel"}):
            job.cancelled_ms = now_ms()
            job.held_since_ms = None

    def _arrive(self, open_jobs: list[Known]) -> None:
        job = self._pick([j for j in open_jobs if j.missing])
        if job:
            self.arrive(job)

    def arrive(self, job: Known) -> None:
        """The input that it waits for."""
        assert job.missing is not None
        self.upload(job.missing, self.rng.randbytes(2000))
        job.missing = None

    def _redo(self, _open: list[Known]) -> None:
        job = self._pick([j for j in self.jobs if j.status == "success" and not j.deleted])
        if job is None:
            return
        wanted = sorted(self.rng.sample(list(job.frames), min(3, len(job.frames))))
        asked_ms = now_ms()
        answer = self.ask("POST", f"/api/jobs/{job.id}/retry", json={"frames": ",".join(map(str, wanted))})
        assert answer.status_code in {200, 202, 409}, answer.text
        if answer.status_code != 409:
            job.redone |= dict.fromkeys(wanted, asked_ms)
            job.status = "pending"
            self.made["retry"] += 1

    def _upload(self, _open: list[Known]) -> None:
        path = f"/chaos/files/{self.rng.randint(0, 20)}.bin"
        self.upload(path, self.rng.randbytes(self.rng.choice([10, 5000, 2_000_000])))

    def _project(self, _open: list[Known]) -> None:
        name = f"project {len(self.projects)}"
        answer = self.ask("POST", "/api/projects", json={"name": name})
        assert answer.status_code == 201, answer.text
        self.projects.append(name)
        self.made["project"] += 1

    def _remove(self, _open: list[Known]) -> None:
        job = self._pick([j for j in self.jobs if j.status == "cancelled" and not j.deleted])
        if job:
            answer = self.ask("DELETE", f"/api/jobs/{job.id}")
            assert answer.status_code in {200, 204, 404, 409}, (
                answer.text
            )  # 404: done, and the answer was lost
            if answer.status_code != 409:
                job.deleted = True
                self.made["delete"] += 1
