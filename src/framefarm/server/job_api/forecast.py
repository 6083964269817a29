"""A job's forecast, from the running sums in its row of `job_state`: O(1), however many frames there are."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.forecast import Span, Sums, forecast
from framefarm.core.job import FINISHED
from framefarm.core.money import money
from framefarm.server.catalog.tables import instance_types
from framefarm.server.database import Tx
from framefarm.server.job_api.summary import ListedJob
from framefarm.server.json_types import Answer
from framefarm.server.rows import InstanceTypeRow
from framefarm.server.sessions.attempt_price import price_of
from framefarm.server.sessions.tables import sessions
from framefarm.server.tenancy import farmwide


def forecast_of(tx: Tx, row: ListedJob, cost_micros: int) -> Answer | None:
    """The API's `forecast`; None before the job's frames are known, and once it has ended.

    `cost_micros`: the job's cost until now, in micro-dollars.
    """
    if row.frame_count is None or row.status in FINISHED:
        return None
    live = farmwide(
        sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((sessions.c.blender.is_not(None), 1))), 0)
        )
    ).where(sessions.c.job_id == row.job_id, sessions.c.ended.is_(False), sessions.c.drain.is_(False))
    session_count, open_scenes = tx.conn.execute(live).one()
    instance = sa.select(instance_types).where(instance_types.c.id == row.instance_type_id)
    price = price_of(tx.row(InstanceTypeRow, instance), preemptible=row.preemptible)
    expected = forecast(
        Sums(
            row.timed_frames, row.timed_ms, row.timed_squares, row.billed_frames,
            row.billed_ms, row.loads, row.load_ms,
        ),
        frames_left=max(0, row.frame_count - row.frames_done),
        machines=session_count,
        warm=bool(open_scenes),
        price_micros_per_hour=price,
    )  # fmt: skip
    return {
        "frames_left": expected.frames_left,
        "based_on_frames": expected.based_on_frames,
        "machines": expected.machines,
        "seconds_left": None if expected.seconds is None else _seconds(expected.seconds),
        "cost_left": None if expected.cost_micros is None else _money(expected.cost_micros),
        "total_cost": None
        if expected.cost_micros is None
        else _money(expected.cost_micros.plus(cost_micros)),
    }


def _seconds(span: Span) -> Answer:
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
