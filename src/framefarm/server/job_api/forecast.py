"""A job's forecast, from the running sums in its row of `job_state`: O(1), however many frames there are."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.forecast import Span, Sums, forecast
from framefarm.core.job import FINISHED
from framefarm.core.money import money
from framefarm.server.catalog.prices import price_of
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.job_api.summary import ListedJob
from framefarm.server.json_types import Answer
from framefarm.server.rows import InstanceTypeRow
from framefarm.server.sessions.tables import sessions
from framefarm.server.tenancy import farmwide


def outlook(tx: Tx, row: ListedJob, cost_micros: int) -> Answer | None:
    """What the API tells as `forecast`; None before the job's frames are known, and once it has ended.

    `row`: the job with its state; `cost_micros`: what it has cost until now.
    """
    if row.frame_count is None or row.status in FINISHED:
        return None
    live = farmwide(
        sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((sessions.c.blender.is_not(None), 1))), 0)
        )
    ).where(sessions.c.job_id == row.job_id, sessions.c.ended.is_(False), sessions.c.drain.is_(False))
    machines, open_scenes = tx.conn.execute(live).one()
    kind = sa.select(instance_types).where(instance_types.c.id == row.instance_type_id)
    price = price_of(tx.row(InstanceTypeRow, kind), preemptible=row.preemptible)
    seen = forecast(
        Sums(
            row.timed_frames, row.timed_ms, row.timed_squares, row.billed_frames,
            row.billed_ms, row.loads, row.load_ms,
        ),
        frames_left=max(0, row.frame_count - row.frames_done),
        machines=machines,
        warm=bool(open_scenes),
        price_micros_per_hour=price,
    )  # fmt: skip
    return {
        "frames_left": seen.frames_left,
        "based_on_frames": seen.based_on_frames,
        "machines": seen.machines,
        "seconds_left": None if seen.seconds is None else _seconds(seen.seconds),
        "cost_left": None if seen.cost_micros is None else _money(seen.cost_micros),
        "total_cost": None if seen.cost_micros is None else _money(seen.cost_micros.plus(cost_micros)),
    }


def _seconds(span: Span) -> dict[str, float | None]:
    return {
        "expected": round(span.expected, 3),
        "low": None if span.low is None else round(span.low, 3),
        "high": None if span.high is None else round(span.high, 3),
    }


def _money(span: Span) -> Answer:
    return {
        name: None if micros is None else money(round(micros))
        for name, micros in (("expected", span.expected), ("low", span.low), ("high", span.high))
    }
