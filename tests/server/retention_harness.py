"""Retention passes run by tests, and objects made older for them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from api_client import ApiClient

from framefarm.core.retention import DAY_MS, HOUR_MS
from framefarm.server.retention import service as retention
from framefarm.server.retention.retention_pass import RetentionPass, policy_of

WEEK_MS = 7 * DAY_MS


def new_pass(site: ApiClient, *, dry_run: bool = False) -> RetentionPass:
    return RetentionPass(site.context, policy_of(site.context.settings), retention.no_lead_required, dry_run)


def run_pass(site: ApiClient, *, dry_run: bool = False) -> dict[str, dict[str, Any]]:
    """Run all parts of a pass; returns sums of what was removed, by `what`."""
    steps = retention.steps(new_pass(site, dry_run=dry_run), retention.OPERATOR_PARTS)
    return {row["what"]: row for row in retention.sums(steps)}


def objects(site: ApiClient, area: str = "content") -> list[Path]:
    """All objects of one area of the store."""
    return [p for p in (site.context.store.root / area).rglob("*") if p.is_file()]


def age(path: Path, days: float) -> None:
    """Make the file look as if it was last written `days` ago."""
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def log_of(site: ApiClient, attempt: str) -> Path:
    """Path of a new log file of the attempt, of 12 bytes."""
    path = site.context.store.path(f"logs/{site.account_id}/{attempt}.log")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"Blender said")
    return path


def delete(site: ApiClient, job: str) -> None:
    assert site.ask("PATCH", f"/api/jobs/{job}", json={"action": "cancel"}).status_code == 200
    assert site.ask("DELETE", f"/api/jobs/{job}").status_code == 204


__all__ = ["DAY_MS", "HOUR_MS", "WEEK_MS", "age", "delete", "log_of", "new_pass", "objects", "run_pass"]
