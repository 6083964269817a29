"""Retention passes: the leader's, which remove due data in small steps, and the operator's own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypedDict

import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.server.accounts.audit import audit
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.json_types import Json
from framefarm.server.metrics import COLLECTED_BYTES, COLLECTED_ROWS
from framefarm.server.retention import deleted_jobs, expired_content, expired_rows, orphan_objects
from framefarm.server.retention.retention_pass import Removed, RetentionPass, Stopped, policy_of

log = structlog.get_logger(__name__)
PASS_SECONDS = 900.0
"""Pause between two passes."""
FIRST_PASS_SECONDS = 30.0
"""Time from the farm's start to the first pass: a starting farm has more urgent work."""
WALK_SECONDS = 6 * 3600.0
"""Least time between two walks through the store for objects without a row."""
FIRST_WALK_SECONDS = 3600.0
PACE_SECONDS = 0.05
"""Pause after a step that removed data, in which other writers proceed."""

Part = Callable[[RetentionPass], Iterator[Removed]]
ROWS: tuple[Part, ...] = (
    deleted_jobs.delete_old_jobs,
    deleted_jobs.empty_deleted_jobs,
    expired_content.remove_manifests,
    expired_content.condemn_content,
    expired_content.remove_content,
    expired_rows.remove_expired_rows,
    expired_rows.remove_events,
)
WALKS: tuple[Part, ...] = (orphan_objects.remove_orphans,)
OPERATOR_PARTS: tuple[Part, ...] = (*ROWS, *WALKS, orphan_objects.remove_abandoned_staging)
_operator_pass = threading.Lock()


def no_lead_required(_tx: Tx) -> None:
    """`require_lead` of a process that alone holds the data directory."""


def steps(retention_pass: RetentionPass, parts: Iterable[Part]) -> Iterator[Removed]:
    """Run the parts in small steps, one for each item taken; each blocks. Ends when the farm stops."""
    try:
        for part in parts:
            for removed in part(retention_pass):
                if not retention_pass.dry_run and (removed.rows or removed.files):
                    COLLECTED_ROWS.labels(removed.what).inc(removed.rows)
                    COLLECTED_BYTES.labels(removed.what).inc(removed.bytes)
                yield removed
    except Stopped:
        return


class RemovedSum(TypedDict):
    """Sum of a pass's `Removed` of one `what`."""

    what: str
    rows: int
    files: int
    bytes: int


def sums(steps_taken: Iterable[Removed]) -> list[RemovedSum]:
    """Sums by `what`, in order of their first step; those without a row or file are left out."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for removed in steps_taken:
        for i, number in enumerate((removed.rows, removed.files, removed.bytes)):
            totals[removed.what][i] += number
    return [
        {"what": what, "rows": n[0], "files": n[1], "bytes": n[2]}
        for what, n in totals.items()
        if n[0] or n[1]
    ]


async def run(context: AppContext, require_lead: Callable[[Tx], None]) -> None:
    """Run a pass every `PASS_SECONDS` in the leader, until cancelled.

    `require_lead` raises NotLeader in a transaction of a process that does not lead.
    """
    walk_at = time.monotonic() + FIRST_WALK_SECONDS
    await asyncio.sleep(FIRST_PASS_SECONDS)
    while True:
        walks = time.monotonic() >= walk_at
        try:
            await context.db.write(require_lead)  # objects are removed outside of transactions
            for part in (*ROWS, *WALKS) if walks else ROWS:
                await _run_part(context, require_lead, part)
        except NotLeader:
            log.debug("collection_is_anothers")
        except Exception:
            log.exception("collection_failed")
        else:
            walk_at = time.monotonic() + WALK_SECONDS if walks else walk_at
        await asyncio.sleep(PASS_SECONDS)


async def _run_part(context: AppContext, require_lead: Callable[[Tx], None], part: Part) -> None:
    """Run one part. Its failure, such as an object that cannot be removed, must not stop the other parts."""
    try:
        await run_pass(context, require_lead, (part,))
    except NotLeader:
        raise
    except Exception:
        log.exception("collection_failed", part=part.__name__)


async def run_pass(
    context: AppContext, require_lead: Callable[[Tx], None], parts: Iterable[Part]
) -> list[RemovedSum]:
    """Run these parts once, with a pause after each step that removed data. Raises NotLeader."""
    remaining = steps(RetentionPass(context, policy_of(context.settings), require_lead), parts)
    done: list[Removed] = []
    while (removed := await run_in_threadpool(next, remaining, None)) is not None:
        done.append(removed)
        if removed.rows or removed.files:
            await asyncio.sleep(PACE_SECONDS)
    totals = sums(done)
    if totals:
        log.info("collected", **{row["what"]: row["rows"] or row["files"] for row in totals})
    return totals


def run_for_operator(context: AppContext, arguments: Json) -> Json:  # free: an operator command's JSON
    """Run all parts for `framefarm admin collect`; with `dry_run` only report what is due. Blocks."""
    dry_run = bool(arguments.get("dry_run"))
    with _operator_pass:
        retention_pass = RetentionPass(context, policy_of(context.settings), no_lead_required, dry_run)
        totals = sums(steps(retention_pass, OPERATOR_PARTS))
    if not dry_run:
        context.db.write_now(audit, "operator", "collect", after={"collected": totals})
    return {
        "dry_run": dry_run,
        "bytes": sum(row["bytes"] for row in totals if row["what"] != "content_condemned"),
        "collected": totals,
    }
