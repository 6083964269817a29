"""The collector: what nobody needs goes, in small steps, in the leader; and the operator's own run of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool

from framefarm.server.accounts.audit import audit
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.dispatch.leader import NotLeader
from framefarm.server.metrics import COLLECTED_BYTES, COLLECTED_ROWS
from framefarm.server.retention import deleted_jobs, expired_content, orphan_objects
from framefarm.server.retention import expired_rows as table_rows
from framefarm.server.retention.retention_pass import Removed, RetentionPass, Stopped, keeping_of

log = structlog.get_logger(__name__)
LOOK_SECONDS = 900.0
FIRST_LOOK_SECONDS = 30.0
"""A farm that starts has other things to do first."""
WALK_SECONDS = 6 * 3600.0
"""How often the store is walked for what no row speaks of, first after an hour."""
FIRST_WALK_SECONDS = 3600.0
PACE_SECONDS = 0.05
"""Between steps: whoever else writes comes in between."""

Part = Callable[[RetentionPass], Iterator[Removed]]
ROWS: tuple[Part, ...] = (
    deleted_jobs.collect_old,
    deleted_jobs.empty_deleted,
    expired_content.collect_manifests,
    expired_content.collect_content,
    expired_content.remove_content,
    table_rows.collect_rows,
    table_rows.collect_events,
)
WALKS: tuple[Part, ...] = (orphan_objects.collect_objects,)
BY_HAND: tuple[Part, ...] = (*ROWS, *WALKS, orphan_objects.collect_staging)
_one_at_a_time = threading.Lock()


def leads_anyway(_tx: Tx) -> None:
    """For whoever holds the data directory alone."""


def steps(run: RetentionPass, parts: Iterable[Part]) -> Iterator[Removed]:
    """Each item is one small step that was taken. Blocks for that step alone. Ends when the farm stops."""
    try:
        for part in parts:
            for went in part(run):
                if not run.dry and (went.rows or went.files):
                    COLLECTED_ROWS.labels(went.what).inc(went.rows)
                    COLLECTED_BYTES.labels(went.what).inc(went.bytes)
                yield went
    except Stopped:
        return


def sums(all_went: Iterable[Removed]) -> list[dict[str, Any]]:
    """By kind, in the order in which they came; kinds of which nothing went are left out."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for went in all_went:
        for i, number in enumerate((went.rows, went.files, went.bytes)):
            found[went.what][i] += number
    return [
        {"what": what, "rows": n[0], "files": n[1], "bytes": n[2]}
        for what, n in found.items()
        if n[0] or n[1]
    ]


async def run(context: AppContext, require_lead: Callable[[Tx], None]) -> None:
    """Looks every quarter of an hour. `require_lead` raises in a transaction of whoever leads no more."""
    walk_at = time.monotonic() + FIRST_WALK_SECONDS
    await asyncio.sleep(FIRST_LOOK_SECONDS)
    while True:
        walks = time.monotonic() >= walk_at
        try:
            await context.db.write(require_lead)  # objects go without a transaction
            for part in (*ROWS, *WALKS) if walks else ROWS:
                await _apart(context, require_lead, part)
        except NotLeader:
            log.debug("collection_is_anothers")
        except Exception:
            log.exception("collection_failed")
        else:
            walk_at = time.monotonic() + WALK_SECONDS if walks else walk_at
        await asyncio.sleep(LOOK_SECONDS)


async def _apart(context: AppContext, require_lead: Callable[[Tx], None], part: Part) -> None:
    """A part that fails, on an object that cannot be removed say, keeps no other from its work."""
    try:
        await turn(context, require_lead, (part,))
    except NotLeader:
        raise
    except Exception:
        log.exception("collection_failed", part=part.__name__)


async def turn(
    context: AppContext, require_lead: Callable[[Tx], None], parts: Iterable[Part]
) -> list[dict[str, Any]]:
    """One pass, with a pause after each step that did something."""
    taken = steps(RetentionPass(context, keeping_of(context.settings), require_lead), parts)
    done: list[Removed] = []
    while (went := await run_in_threadpool(next, taken, None)) is not None:
        done.append(went)
        if went.rows or went.files:
            await asyncio.sleep(PACE_SECONDS)
    found = sums(done)
    if found:
        log.info("collected", **{row["what"]: row["rows"] or row["files"] for row in found})
    return found


def by_hand(context: AppContext, said: dict[str, Any]) -> dict[str, Any]:
    """`framefarm admin collect`: all of it at once. `dry_run`: only say what is due now."""
    dry = bool(said.get("dry_run"))
    with _one_at_a_time:
        found = sums(steps(RetentionPass(context, keeping_of(context.settings), leads_anyway, dry), BY_HAND))
    if not dry:
        context.db.write_now(audit, "operator", "collect", after={"collected": found})
    return {
        "dry_run": dry,
        "bytes": sum(row["bytes"] for row in found if row["what"] != "content_condemned"),
        "collected": found,
    }
