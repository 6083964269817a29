"""Where machines stand: what the dispatcher sees of them, and what the operator wants. Rules: core/nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
import structlog

from framefarm.core import node_health as rules
from framefarm.core.errors import NotFound
from framefarm.core.failure_codes import CAUSES, is_machines
from framefarm.core.job import Outcome
from framefarm.core.node_health import HealthLimits, NodeHealth, NodeState
from framefarm.server.accounts.audit import audit
from framefarm.server.accounts.tables import accounts as accounts_table
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.engines.base import Capacity, Notice
from framefarm.server.nodes.tables import nodes
from framefarm.server.rows import NodeRow
from framefarm.server.sessions.tables import FAILED, attempts, sessions
from framefarm.server.tenancy import farmwide
from framefarm.server.timestamps import iso

log = structlog.get_logger(__name__)
_MACHINES_OWN = [code for code in CAUSES if is_machines(code)]
_STANDING = ("standing", "since_ms", "counted_from_ms", "until_ms", "times", "reason")


def limits_of(tx: Tx, context: AppContext) -> HealthLimits:
    said = context.settings
    return HealthLimits(
        said.node_failed_jobs,
        round(said.node_window_seconds * 1000),
        round(said.node_pause_seconds * 1000),
        tx.conn.execute(sa.select(sa.func.count()).select_from(accounts_table)).scalar_one(),
    )


@dataclass(frozen=True)
class Machines:
    """`rows`: machine → its row, judged anew. `avoided`: job → machines that it does not use now, each with
    until when and what happened there."""

    rows: dict[str, NodeRow]
    avoided: dict[str, dict[str, tuple[int, str]]]


def look(
    tx: Tx,
    context: AppContext,
    capacity: Sequence[Capacity] | None,
    notices: Sequence[Notice],
    steady_ms: int,
) -> Machines:
    """The leader's look at all machines. `capacity` None: the engine does not
    answer, and what machines there are stays as it was. What was lost before `steady_ms` was lost with the
    farm, and speaks against no machine."""
    rows = {row.name: row for row in tx.rows(NodeRow, sa.select(nodes))}
    if capacity is not None:
        _seen(tx, rows, capacity, {n.node: n.deadline_ms for n in notices})
    limits = limits_of(tx, context)
    bad = _ended_badly(tx, tx.now_ms - limits.window_ms, steady_ms)
    found = rules.against(bad)
    in_use = {n for n, row in rows.items() if row.present and row.standing == NodeState.IN_USE}
    for name, row in rows.items():
        node, mine = _node(row), found.get(name, [])
        only = in_use <= {name}
        good_ms = _last_good(tx, node, mine) if rules.suspect(node, mine, limits, only=only) else None
        after = rules.judge(node, mine, good_ms, tx.now_ms, limits, only=only)
        if after != node:
            _write(tx, row, after, "system")
            if after.standing is not NodeState.IN_USE:
                in_use.discard(name)
    return Machines(rows, rules.avoided(bad, tx.now_ms))


def set_aside(tx: Tx, name: str, reason: str) -> dict[str, Any]:
    """By the operator, until they return it. Raises NotFound."""
    row = _row(tx, name)
    _write(tx, row, rules.set_aside(_node(row), tx.now_ms, reason), "operator")
    return _shape(row, _live(tx).get(name, 0))


def put_back(tx: Tx, name: str) -> dict[str, Any]:
    """In use again, whoever set it aside. Raises NotFound."""
    row = _row(tx, name)
    if row.standing != NodeState.IN_USE:
        _write(tx, row, rules.returned(_node(row), tx.now_ms), "operator")
    return _shape(row, _live(tx).get(name, 0))


def listing(tx: Tx) -> list[dict[str, Any]]:
    """All machines that the engine showed last, and all that are not in use."""
    live = _live(tx)
    rows = tx.rows(NodeRow, sa.select(nodes).order_by(nodes.c.name))
    return [
        _shape(row, live.get(row.name, 0)) for row in rows if row.present or row.standing != NodeState.IN_USE
    ]


# ------------------------------------------------------------------------------------ facts


def _seen(tx: Tx, rows: dict[str, NodeRow], capacity: Sequence[Capacity], leaving: dict[str, int]) -> None:
    shown = {c.total.node: c for c in capacity}
    for name, one in shown.items():
        known = rows.get(name)
        if known is None:
            row = NodeRow(
                name=name,
                zone=one.total.zone,
                market=one.market,
                present=True,
                leaving_ms=leaving.get(name),
                standing=NodeState.IN_USE,
                since_ms=tx.now_ms,
                counted_from_ms=0,
                until_ms=None,
                times=0,
                reason=None,
            )
            rows[name] = row
            tx.conn.execute(sa.insert(nodes).values(asdict(row)))
        else:
            is_now = replace(
                known, zone=one.total.zone, market=one.market, present=True, leaving_ms=leaving.get(name)
            )
            _update_seen(tx, rows, known, is_now)
    for name, row in list(rows.items()):
        if row.present and name not in shown:
            _update_seen(tx, rows, row, replace(row, present=False, leaving_ms=None))


def _update_seen(tx: Tx, rows: dict[str, NodeRow], known: NodeRow, is_now: NodeRow) -> None:
    if is_now != known:
        rows[known.name] = is_now
        change = {name: getattr(is_now, name) for name in ("zone", "market", "present", "leaving_ms")}
        tx.conn.execute(sa.update(nodes).where(nodes.c.name == known.name).values(change))


def _ended_badly(tx: Tx, since_ms: int, steady_ms: int) -> list[rules.BadEnd]:
    """Attempts; and sessions that never got to the scene, or that the machine itself ended."""
    some = sa.cast(attempts.c.frames_done > 0, sa.Integer)
    kind = attempts.c.node, attempts.c.account_id, attempts.c.job_id
    bad = farmwide(sa.select(*kind, sa.func.max(attempts.c.ended_ms), attempts.c.cause, some)).where(
        FAILED, attempts.c.ended_ms > since_ms, attempts.c.cause.is_not(None)
    )
    bad = bad.group_by(*kind, attempts.c.cause, some)  # a job may fail a million times
    of_sessions = farmwide(
        sa.select(
            sessions.c.node,
            sessions.c.account_id,
            sessions.c.job_id,
            sessions.c.ended_ms,
            sessions.c.end_reason,
            sa.literal(0),
        )
    ).where(
        sessions.c.ended_ms > since_ms,
        sessions.c.end_reason.is_not(None),
        sessions.c.end_reason.not_in(["drained", "cancelled", "preempted", "stopped"]),
        sa.or_(sessions.c.blender.is_(None), sessions.c.end_reason.in_(_MACHINES_OWN)),
    )
    found = [rules.BadEnd(*row) for query in (bad, of_sessions) for row in tx.conn.execute(query)]
    return [e for e in found if e.at_ms >= steady_ms or e.reason not in {"machine_lost", "runner_lost"}]


def _last_good(tx: Tx, node: NodeHealth, found: Sequence[rules.BadEnd]) -> int | None:
    """When an attempt that committed a frame last ended there, or one that still runs last committed one (by
    its runner's clock, which is believed only up to now)."""
    since = max(node.counted_from_ms, min((e.at_ms for e in found), default=0))
    everyone = sa.select(accounts_table.c.id)  # so that the index of accounts serves
    ended = farmwide(sa.select(sa.func.max(attempts.c.ended_ms))).where(
        attempts.c.account_id.in_(everyone),
        attempts.c.ended_ms > since,
        attempts.c.node == node.name,
        attempts.c.frames_done > 0,
        attempts.c.outcome != Outcome.LOST,
        sa.or_(attempts.c.cause.is_(None), attempts.c.cause.not_in(_MACHINES_OWN)),
    )
    working = (
        farmwide(sa.select(sa.func.max(sessions.c.hello_ms + attempts.c.saved_mono_ms)))
        .where(sessions.c.node == node.name, ~sessions.c.ended)
        .where(attempts.c.session_id == sessions.c.id, attempts.c.outcome.is_(None))
    )
    times = [tx.conn.execute(query).scalar() for query in (ended, working)]
    return max((min(at, tx.now_ms) for at in times if at is not None), default=None)


def _live(tx: Tx) -> dict[str, int]:
    query = farmwide(sa.select(sessions.c.node, sa.func.count())).where(~sessions.c.ended)
    return {row[0]: row[1] for row in tx.conn.execute(query.group_by(sessions.c.node))}


# ------------------------------------------------------------------------------------- rows


def _row(tx: Tx, name: str) -> NodeRow:
    row = tx.row_or_none(NodeRow, sa.select(nodes).where(nodes.c.name == name).with_for_update())
    if row is None:
        known = ", ".join(tx.conn.execute(sa.select(nodes.c.name).order_by(nodes.c.name).limit(20)).scalars())
        raise NotFound(
            f"There is no machine {name}; there are: {known or 'none that the farm has seen yet'}."
        )
    return row


def _node(row: NodeRow) -> NodeHealth:
    return NodeHealth(row.name, *(getattr(row, name) for name in _STANDING))


def _write(tx: Tx, row: NodeRow, after: NodeHealth, actor: str) -> None:
    """Write where it stands; tell the audit and the log, unless only what counts has moved."""
    before = {name: getattr(row, name) for name in _STANDING}
    change = {name: getattr(after, name) for name in _STANDING}
    same = [nodes.c[name] == before[name] for name in ("standing", "since_ms")]
    statement = sa.update(nodes).where(nodes.c.name == after.name, *same).values(change)
    if not tx.conn.execute(statement).rowcount:
        return  # the operator was quicker: the next look sees it
    for name, value in change.items():
        setattr(row, name, value)
    if change["standing"] == before["standing"] and change["reason"] == before["reason"]:
        return
    audit(tx, actor, f"node.{after.standing}", after.name, before=before, after=change)
    if actor == "system":
        said = {"node": after.name, "reason": after.reason, "until": _until(row)}
        tx.after_commit(lambda: log.warning(f"node_{after.standing}", **said))


def _until(row: NodeRow) -> str | None:
    return iso(row.until_ms) if row.standing == NodeState.SET_ASIDE else None


def _shape(row: NodeRow, live: int) -> dict[str, Any]:
    return {
        "node": row.name,
        "zone": row.zone or None,
        "market": row.market,
        "present": row.present,
        "state": row.standing,
        "reason": row.reason,
        "since": iso(row.since_ms),
        "until": _until(row),
        "leaves": iso(row.leaving_ms),
        "sessions": live,
    }
