"""The collector turned by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from api_client import ApiClient

from framefarm.core.retention import DAY_MS, HOUR_MS
from framefarm.server.retention import service as collection
from framefarm.server.retention.retention_pass import RetentionPass, keeping_of

WEEK_MS = 7 * DAY_MS


def a_run(site: ApiClient, *, dry: bool = False) -> RetentionPass:
    return RetentionPass(site.context, keeping_of(site.context.settings), collection.leads_anyway, dry)


def collect(site: ApiClient, *, dry: bool = False) -> dict[str, dict[str, Any]]:
    """One whole pass: what went, by kind."""
    steps = collection.steps(a_run(site, dry=dry), collection.BY_HAND)
    return {row["what"]: row for row in collection.sums(steps)}


def objects(site: ApiClient, area: str = "content") -> list[Path]:
    return [p for p in (site.context.store.root / area).rglob("*") if p.is_file()]


def age(path: Path, days: float) -> None:
    """As if it was written that long ago."""
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def log_of(site: ApiClient, attempt: str) -> Path:
    """What its Blender said, as its runner keeps it."""
    path = site.context.store.path(f"logs/{site.account_id}/{attempt}.log")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"Blender said")
    return path


def delete(site: ApiClient, job: str) -> None:
    assert site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"}).status_code == 200
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204


__all__ = ["DAY_MS", "HOUR_MS", "WEEK_MS", "a_run", "age", "collect", "delete", "log_of", "objects"]
