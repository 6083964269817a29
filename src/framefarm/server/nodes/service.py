"""Nodes: what the engine shows of them, and whether they get sessions. The rules are `core/node_health`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa
import structlog

from framefarm.core import node_health as rules
from framefarm.core.errors import NotFound
from framefarm.core.failure_codes import CAUSES, is_node_fault
from framefarm.core.node_health import HealthLimits, NodeHealth, NodeState
from framefarm.core.task_outcomes import Outcome
from framefarm.server.accounts.audit import audit
from framefarm.server.accounts.tables import accounts as accounts_table
from framefarm.server.database import Tx
from framefarm.server.engines.base import Capacity, Notice
from framefarm.server.jobs.tables import jobs
from framefarm.server.json_types import Answer
from framefarm.server.nodes.tables import nodes
from framefarm.server.rows import NodeRow
from framefarm.server.sessions.tables import FAILED, attempts, sessions
from framefarm.server.settings import Settings
from framefarm.server.tenancy import farmwide
from framefarm.server.timestamps import iso

log = structlog.get_logger(__name__)
_NODE_CAUSES = [code for code in CAUSES if is_node_fault(code)]
JOBS_AT_ONCE = 500
"""Jobs in one query."""
_HEALTH_COLUMNS = ("standing", "since_ms", "counted_from_ms", "until_ms", "times", "reason")


def _limits(tx: Tx, settings: Settings) -> HealthLimits:
    return HealthLimits(
        settings.node_failed_jobs,
        round(settings.node_window_seconds * 1000),
        round(settings.node_pause_seconds * 1000),
        tx.conn.execute(sa.select(sa.func.count()).select_from(accounts_table)).scalar_one(),
    )


@dataclass(frozen=True)
class NodeSurvey:
    """All nodes, judged by what the engine shows and by how attempts ended."""

    rows: dict[str, NodeRow]
    """Node → row."""
    avoided: dict[str, dict[str, tuple[int, str]]]
    """Job → node that it does not use now → (until when in ms, what happened there)."""


def survey(
    tx: Tx,
    settings: Settings,
    capacity: Sequence[Capacity] | None,
    notices: Sequence[Notice],
    steady_ms: int,
) -> NodeSurvey:
    """Update all nodes, in the leader's tick.

    `capacity` None: the engine does not answer, and the known nodes stay as they are. `notices`: departures.
    Losses before `steady_ms` are blamed on the farm's own absence and count against no node.
    """
    rows = {row.name: row for row in tx.rows(NodeRow, sa.select(nodes))}
    if capacity is not None:
        _record_shown(tx, rows, capacity, {n.node: n.deadline_ms for n in notices})
    limits = _limits(tx, settings)
    bad_ends = _bad_ends(tx, tx.now_ms - limits.window_ms, steady_ms)
    evidence = rules.evidence_by_node(bad_ends, _rendered_on(tx, bad_ends, limits))
    in_use = {n for n, row in rows.items() if row.present and row.standing == NodeState.IN_USE}
    for name, row in rows.items():
        node, node_ends = _health(row), evidence.get(name, [])
        only = in_use <= {name}
        unsure = rules.needs_last_success(node, node_ends, limits, only=only)
        good_ms = _last_good_ms(tx, node, node_ends) if unsure else None
        after = rules.judge_node(node, node_ends, good_ms, tx.now_ms, limits, only=only)
        if after != node:
            _write(tx, row, after, "system")
            if after.standing is not NodeState.IN_USE:
                in_use.discard(name)
    return NodeSurvey(rows, rules.nodes_to_avoid(bad_ends, tx.now_ms))


def set_aside(tx: Tx, name: str, reason: str) -> Answer:
    """Set a node aside for the operator, until they return it to use. Raises NotFound."""
    row = _row(tx, name)
    _write(tx, row, rules.set_aside(_health(row), tx.now_ms, reason), "operator")
    return _shape(row, _live_sessions(tx).get(name, 0))


def return_to_use(tx: Tx, name: str) -> Answer:
    """Return a node to use for the operator, however it was set aside. Raises NotFound."""
    row = _row(tx, name)
    if row.standing != NodeState.IN_USE:
        _write(tx, row, rules.returned(_health(row), tx.now_ms), "operator")
    return _shape(row, _live_sessions(tx).get(name, 0))


def listing(tx: Tx) -> list[Answer]:
    """Nodes that the engine shows, and nodes that are set aside or on trial, by name."""
    live = _live_sessions(tx)
    rows = tx.rows(NodeRow, sa.select(nodes).order_by(nodes.c.name))
    return [
        _shape(row, live.get(row.name, 0)) for row in rows if row.present or row.standing != NodeState.IN_USE
    ]


# ------------------------------------------------------------------------------------ facts


def _record_shown(
    tx: Tx, rows: dict[str, NodeRow], capacity: Sequence[Capacity], leaving: dict[str, int]
) -> None:
    shown = {c.total.node: c for c in capacity}
    for name, capacity_of_node in shown.items():
        known = rows.get(name)
        if known is None:
            row = NodeRow(
                name=name,
                zone=capacity_of_node.total.zone,
                market=capacity_of_node.market,
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
            new = replace(
                known,
                zone=capacity_of_node.total.zone,
                market=capacity_of_node.market,
                present=True,
                leaving_ms=leaving.get(name),
            )
            _update_shown(tx, rows, known, new)
    for name, row in list(rows.items()):
        if row.present and name not in shown:
            _update_shown(tx, rows, row, replace(row, present=False, leaving_ms=None))


def _update_shown(tx: Tx, rows: dict[str, NodeRow], known: NodeRow, new: NodeRow) -> None:
    if new != known:
        rows[known.name] = new
        change = {name: getattr(new, name) for name in ("zone", "market", "present", "leaving_ms")}
        tx.conn.execute(sa.update(nodes).where(nodes.c.name == known.name).values(change))


def _bad_ends(tx: Tx, since_ms: int, steady_ms: int) -> list[rules.BadEnd]:
    """Failed attempts, and sessions that ended before they opened the scene or for a cause of the node."""
    any_frames = sa.cast(attempts.c.frames_done > 0, sa.Integer)
    key = attempts.c.node, attempts.c.account_id, attempts.c.job_id
    of_attempts = farmwide(
        sa.select(*key, sa.func.max(attempts.c.ended_ms), attempts.c.cause, any_frames)
    ).where(FAILED, attempts.c.ended_ms > since_ms, attempts.c.cause.is_not(None))
    of_attempts = of_attempts.group_by(*key, attempts.c.cause, any_frames)  # a job may fail a million times
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
        sa.or_(sessions.c.blender.is_(None), sessions.c.end_reason.in_(_NODE_CAUSES)),
    )
    rows = {query: tx.conn.execute(query).all() for query in (of_attempts, of_sessions)}
    scenes = _scenes(tx, {row[2] for found in rows.values() for row in found})
    ends = [
        replace(rules.BadEnd(*row), scene=scenes.get(row[2]), before_blender=query is of_sessions)
        for query, found in rows.items()
        for row in found
    ]
    return [e for e in ends if e.at_ms >= steady_ms or e.reason not in {"machine_lost", "runner_lost"}]


def _scenes(tx: Tx, job_ids: set[str]) -> dict[str, str | None]:
    """Job → SHA-256 of its scene file, None until that is read."""
    content = jobs.c.scene["sha256"].as_string()
    found: dict[str, str | None] = {}
    for some in _batches(job_ids):
        query = farmwide(sa.select(jobs.c.id, content)).where(jobs.c.id.in_(some))
        found |= {row[0]: row[1] for row in tx.conn.execute(query)}
    return found


def _rendered_on(tx: Tx, bad_ends: Sequence[rules.BadEnd], limits: HealthLimits) -> dict[str, set[str]]:
    """Job → nodes that committed frames of it, for jobs whose failures may be a node's fault.

    Without a node that as many unlike jobs speak against as set it aside, nothing is looked up.
    """
    doubtful = [end for end in rules.suspicions(bad_ends) if not end.certain]
    unlike = Counter(node for node, _ in {(end.node, end.likeness) for end in doubtful})
    if not unlike or (max(unlike.values()) < limits.jobs and not _any_on_trial(tx)):
        return {}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for some in _batches({end.job for end in doubtful}):
        query = farmwide(sa.select(attempts.c.job_id, attempts.c.node)).distinct()
        for row in tx.conn.execute(query.where(attempts.c.job_id.in_(some), attempts.c.frames_done > 0)):
            found[row.job_id].add(row.node)
    return found


def _batches(job_ids: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(job_ids)
    return (ordered[at : at + JOBS_AT_ONCE] for at in range(0, len(ordered), JOBS_AT_ONCE))


def _any_on_trial(tx: Tx) -> bool:
    query = sa.select(nodes.c.name).where(nodes.c.standing == NodeState.ON_TRIAL).limit(1)
    return tx.conn.execute(query).first() is not None


def _last_good_ms(tx: Tx, node: NodeHealth, bad_ends: Sequence[rules.BadEnd]) -> int | None:
    """Last success on a node: the end of an attempt with frames, or the last frame of one in work.

    The latter is by the runner's clock, so it is limited to now.
    """
    since = max(node.counted_from_ms, min((e.at_ms for e in bad_ends), default=0))
    all_accounts = sa.select(accounts_table.c.id)  # lets the query use the index that begins with accounts
    ended = farmwide(sa.select(sa.func.max(attempts.c.ended_ms))).where(
        attempts.c.account_id.in_(all_accounts),
        attempts.c.ended_ms > since,
        attempts.c.node == node.name,
        attempts.c.frames_done > 0,
        attempts.c.outcome != Outcome.LOST,
        sa.or_(attempts.c.cause.is_(None), attempts.c.cause.not_in(_NODE_CAUSES)),
    )
    working = (
        farmwide(sa.select(sa.func.max(sessions.c.hello_ms + attempts.c.saved_mono_ms)))
        .where(sessions.c.node == node.name, ~sessions.c.ended)
        .where(attempts.c.session_id == sessions.c.id, attempts.c.outcome.is_(None))
    )
    times = [tx.conn.execute(query).scalar() for query in (ended, working)]
    return max((min(at, tx.now_ms) for at in times if at is not None), default=None)


def _live_sessions(tx: Tx) -> dict[str, int]:
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


def _health(row: NodeRow) -> NodeHealth:
    return NodeHealth(row.name, *(getattr(row, name) for name in _HEALTH_COLUMNS))


def _write(tx: Tx, row: NodeRow, after: NodeHealth, actor: str) -> None:
    """Write a node's health; audit and log it if its state or reason has changed."""
    before = {name: getattr(row, name) for name in _HEALTH_COLUMNS}
    change = {name: getattr(after, name) for name in _HEALTH_COLUMNS}
    unchanged = [nodes.c[name] == before[name] for name in ("standing", "since_ms")]
    statement = sa.update(nodes).where(nodes.c.name == after.name, *unchanged).values(change)
    if not tx.conn.execute(statement).rowcount:
        return  # the operator was quicker: the next survey reads it
    for name, value in change.items():
        setattr(row, name, value)
    if change["standing"] == before["standing"] and change["reason"] == before["reason"]:
        return
    audit(tx, actor, f"node.{after.standing}", after.name, before=before, after=change)
    if actor == "system":
        facts = {"node": after.name, "reason": after.reason, "until": _until(row)}
        tx.after_commit(lambda: log.warning(f"node_{after.standing}", **facts))


def _until(row: NodeRow) -> str | None:
    return iso(row.until_ms) if row.standing == NodeState.SET_ASIDE else None


def _shape(row: NodeRow, live: int) -> Answer:
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
