"""Jobs of a farm: submit, look, steer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

from framefarm.client.http import Client

Job = dict[str, Any]
"""A job as the farm answers it; the OpenAPI document names its fields."""

FINISHED = frozenset({"success", "failed", "cancelled"})


def submit(client: Client, payload: Mapping[str, Any]) -> Job:
    """Post a job, once, however often the connection breaks meanwhile."""
    job: Job = client.post("/api/jobs", dict(payload), idempotency_key=uuid.uuid4().hex)
    return job


def dry_run(client: Client, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What submitting would do: frames, tasks, missing paths, warnings, price per hour."""
    answer: dict[str, Any] = client.post(
        "/api/jobs", dict(payload), params={"dry_run": "true"}, repeatable=True
    )
    return answer


def get(client: Client, job_id: str) -> Job:
    job: Job = client.get(f"/api/jobs/{quoted(job_id)}")
    return job


def find(client: Client, *, limit: int | None = 50, **filters: str | None) -> Iterator[Job]:
    """Jobs, newest first. Filters: `status`, `project`, `user`, `q`, `created_after`, `created_before`."""
    return client.pages("/api/jobs", limit=limit, **filters)


def frames(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """Every frame of the job in order, begun or not."""
    return client.pages(f"/api/jobs/{quoted(job_id)}/frames")


def tasks(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    return client.pages(f"/api/jobs/{quoted(job_id)}/tasks")


def log(client: Client, job_id: str, task: str) -> str:
    """Blender's output of a task's latest attempt. It is a scene's own text: clean it before showing it."""
    return client.get_text(f"/api/jobs/{quoted(job_id)}/tasks/{quoted(task)}/log")


def change(
    client: Client,
    job_id: str,
    *,
    action: str | None = None,
    priority: int | None = None,
    drain: bool | None = None,
) -> Job:
    """`action`: hold, unhold or cancel. With `drain=False` a hold also stops the frames in work."""
    body = {"action": action, "priority": priority, "drain": drain}
    job: Job = client.patch(f"/api/jobs/{quoted(job_id)}", {k: v for k, v in body.items() if v is not None})
    return job


def retry(
    client: Client, job_id: str, *, frames: str | None = None, tasks: list[str] | None = None
) -> dict[str, Any]:
    """Try again: all failed tasks, some tasks, or exactly these frames, done ones too."""
    base = f"/api/jobs/{quoted(job_id)}"
    if tasks:
        for task in tasks:
            client.post(f"{base}/tasks/{quoted(task)}/retry", {}, idempotency_key=uuid.uuid4().hex)
        return {"retried": tasks}
    body = {} if frames is None else {"frames": frames}
    answer: dict[str, Any] = client.post(f"{base}/retry", body, idempotency_key=uuid.uuid4().hex)
    return answer


def delete(client: Client, job_id: str) -> None:
    client.delete(f"/api/jobs/{quoted(job_id)}")


def count(job: Job, what: Literal["frames", "tasks"] = "frames") -> tuple[int, int] | None:
    """(done, all) of a job's frames or tasks; None while the farm does not know how many there are."""
    counts = job.get(what)
    if counts is None:
        return None
    return counts["done" if what == "frames" else "success"], counts["total"]


def quoted(part: str) -> str:
    """A part of a path that came from a person: nothing in it can reach another path."""
    return quote(part, safe="").replace(".", "%2E")
