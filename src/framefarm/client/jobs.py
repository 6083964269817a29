"""Jobs of a farm: submit, look, steer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

from framefarm.client.http import Farm

Job = dict[str, Any]
"""A job as the farm answers it; the OpenAPI document names its fields."""

FINISHED = frozenset({"success", "failed", "cancelled"})


def submit(farm: Farm, payload: Mapping[str, Any]) -> Job:
    """Post a job, once, however often the connection breaks meanwhile."""
    job: Job = farm.post("/api/jobs", dict(payload), idempotency_key=uuid.uuid4().hex)
    return job


def dry_run(farm: Farm, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What submitting would do: frames, tasks, missing paths, warnings, price per hour."""
    answer: dict[str, Any] = farm.post(
        "/api/jobs", dict(payload), params={"dry_run": "true"}, repeatable=True
    )
    return answer


def get(farm: Farm, job_id: str) -> Job:
    job: Job = farm.get(f"/api/jobs/{quoted(job_id)}")
    return job


def find(farm: Farm, *, limit: int | None = 50, **filters: str | None) -> Iterator[Job]:
    """Jobs, newest first. Filters: `status`, `project`, `user`, `q`, `created_after`, `created_before`."""
    return farm.pages("/api/jobs", limit=limit, **filters)


def frames(farm: Farm, job_id: str) -> Iterator[dict[str, Any]]:
    """Every frame of the job in order, begun or not."""
    return farm.pages(f"/api/jobs/{quoted(job_id)}/frames")


def tasks(farm: Farm, job_id: str) -> Iterator[dict[str, Any]]:
    return farm.pages(f"/api/jobs/{quoted(job_id)}/tasks")


def log(farm: Farm, job_id: str, task: str) -> str:
    """Blender's output of a task's latest attempt. It is a scene's own text: clean it before showing it."""
    return farm.get_text(f"/api/jobs/{quoted(job_id)}/tasks/{quoted(task)}/log")


def change(
    farm: Farm,
    job_id: str,
    *,
    action: str | None = None,
    priority: int | None = None,
    drain: bool | None = None,
) -> Job:
    """`action`: hold, unhold or cancel. With `drain=False` a hold also stops the frames in work."""
    body = {"action": action, "priority": priority, "drain": drain}
    job: Job = farm.patch(f"/api/jobs/{quoted(job_id)}", {k: v for k, v in body.items() if v is not None})
    return job


def retry(
    farm: Farm, job_id: str, *, frames: str | None = None, tasks: list[str] | None = None
) -> dict[str, Any]:
    """Try again: all failed tasks, some tasks, or exactly these frames, done ones too."""
    base = f"/api/jobs/{quoted(job_id)}"
    if tasks:
        for task in tasks:
            farm.post(f"{base}/tasks/{quoted(task)}/retry", {}, idempotency_key=uuid.uuid4().hex)
        return {"retried": tasks}
    body = {} if frames is None else {"frames": frames}
    answer: dict[str, Any] = farm.post(f"{base}/retry", body, idempotency_key=uuid.uuid4().hex)
    return answer


def delete(farm: Farm, job_id: str) -> None:
    farm.delete(f"/api/jobs/{quoted(job_id)}")


def count(job: Job, what: Literal["frames", "tasks"] = "frames") -> tuple[int, int] | None:
    """(done, all) of a job's frames or tasks; None while the farm does not know how many there are."""
    counts = job.get(what)
    if counts is None:
        return None
    return counts["done" if what == "frames" else "success"], counts["total"]


def quoted(part: str) -> str:
    """A part of a path that came from a person: nothing in it can reach another path."""
    return quote(part, safe="").replace(".", "%2E")
