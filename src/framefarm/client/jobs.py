"""Submitting, reading and controlling a farm's jobs. Every call raises Refused or Unreachable."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

from framefarm.client.http import Client

Job = dict[str, Any]
"""A job as the API returns it (docs/api.md)."""

FINISHED = frozenset({"success", "failed", "cancelled"})
"""Statuses that a job no longer leaves, unless it is retried."""


def submit(client: Client, payload: Mapping[str, Any]) -> Job:
    """Submit a job. A broken connection leads to no second job, thanks to an idempotency key."""
    job: Job = client.post("/api/jobs", dict(payload), idempotency_key=uuid.uuid4().hex)
    return job


def dry_run(client: Client, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Check a submission without making a job: frames, tasks, missing paths, warnings, price per hour."""
    answer: dict[str, Any] = client.post(
        "/api/jobs", dict(payload), params={"dry_run": "true"}, repeatable=True
    )
    return answer


def get(client: Client, job_id: str) -> Job:
    """One job."""
    job: Job = client.get(f"/api/jobs/{quoted(job_id)}")
    return job


def find(client: Client, *, limit: int | None = 50, **filters: str | None) -> Iterator[Job]:
    """Jobs, newest first. Filters: `status`, `project`, `user`, `q`, `created_after`, `created_before`."""
    return client.pages("/api/jobs", limit=limit, **filters)


def frames(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """All frames of a job in order, including those not yet started."""
    return client.pages(f"/api/jobs/{quoted(job_id)}/frames")


def tasks(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """All tasks of a job in order."""
    return client.pages(f"/api/jobs/{quoted(job_id)}/tasks")


def log(client: Client, job_id: str, task: str) -> str:
    """Blender's output in a task's latest attempt. Scenes control the text: clean it before display."""
    return client.get_text(f"/api/jobs/{quoted(job_id)}/tasks/{quoted(task)}/log")


def change(
    client: Client,
    job_id: str,
    *,
    action: str | None = None,
    priority: int | None = None,
    drain: bool | None = None,
) -> Job:
    """Change a job. `action`: hold, unhold or cancel. With `drain=False`, a hold stops running frames too."""
    body = {"action": action, "priority": priority, "drain": drain}
    job: Job = client.patch(f"/api/jobs/{quoted(job_id)}", {k: v for k, v in body.items() if v is not None})
    return job


def retry(
    client: Client, job_id: str, *, frames: str | None = None, tasks: list[str] | None = None
) -> dict[str, Any]:
    """Retry all failed tasks, the given `tasks`, or exactly these `frames` (a frame spec), done or not."""
    base = f"/api/jobs/{quoted(job_id)}"
    if tasks:
        for task in tasks:
            client.post(f"{base}/tasks/{quoted(task)}/retry", {}, idempotency_key=uuid.uuid4().hex)
        return {"retried": tasks}
    body = {} if frames is None else {"frames": frames}
    answer: dict[str, Any] = client.post(f"{base}/retry", body, idempotency_key=uuid.uuid4().hex)
    return answer


def delete(client: Client, job_id: str) -> None:
    """Delete a job. Refused while it is not finished."""
    client.delete(f"/api/jobs/{quoted(job_id)}")


def count(job: Job, what: Literal["frames", "tasks"] = "frames") -> tuple[int, int] | None:
    """(done, total) of a job's frames or tasks; None until the farm has read the scene."""
    counts = job.get(what)
    if counts is None:
        return None
    return counts["done" if what == "frames" else "success"], counts["total"]


def quoted(part: str) -> str:
    """`part`, typed by a person, escaped so that it stays one part of a URL's path."""
    return quote(part, safe="").replace(".", "%2E")
