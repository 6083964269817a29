"""Routes `/healthz` and `/readyz`, which answer a status only, and `/metrics`."""

from __future__ import annotations

import hmac
import ipaddress

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse

from framefarm.core.errors import NotAllowed
from framefarm.core.node_health import NodeState
from framefarm.server.database import Tx
from framefarm.server.http.context import context_of
from framefarm.server.jobs.state import facts
from framefarm.server.jobs.tables import job_state
from framefarm.server.metrics import REGISTRY
from framefarm.server.nodes.tables import nodes
from framefarm.server.rows import JobStateRow
from framefarm.server.sessions.tables import files, sessions
from framefarm.server.tenancy import farmwide
from framefarm.server.webhooks import service as webhooks

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """Whether the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Whether the farm takes requests and its database answers; 503 while it drains."""
    context = context_of(request)
    if context.draining:
        return JSONResponse({"status": "draining"}, 503, {"Retry-After": "5"})
    await context.db.read(lambda tx: tx.conn.execute(sa.text("SELECT 1")).scalar())
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format, without names of accounts, users, jobs or projects.

    Raises NotAllowed.
    """
    context = context_of(request)
    token = context.settings.metrics_token
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    valid = token is not None and hmac.compare_digest(given.encode(), token.get_secret_value().encode())
    if not valid and not _from_loopback(request):
        raise NotAllowed("Metrics need the token FRAMEFARM_METRICS_TOKEN, or a request from this machine.")
    return Response(await context.db.read(_gather), media_type=CONTENT_TYPE_LATEST)


def _from_loopback(request: Request) -> bool:
    proxied = {"forwarded", "x-forwarded-for", "x-real-ip"} & set(request.headers.keys())
    host = request.client.host if request.client else ""
    try:
        return not proxied and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _gather(tx: Tx) -> bytes:
    """Gauges of the present state in the database, followed by this process's own metrics."""
    registry = CollectorRegistry()
    jobs = Gauge("framefarm_jobs", "Jobs by status", ["status"], registry=registry)
    live = Gauge("framefarm_sessions", "Live sessions by state", ["state"], registry=registry)
    count = sa.func.count()
    for status, number in tx.conn.execute(
        farmwide(sa.select(job_state.c.status, count).group_by(job_state.c.status))
    ):
        jobs.labels(status).set(number)
    query = farmwide(sa.select(sessions.c.state, count).group_by(sessions.c.state))
    for state, number in tx.conn.execute(query.where(~sessions.c.ended)):
        live.labels(state).set(number)
    present = Gauge("framefarm_nodes", "Nodes by state", ["state"], registry=registry)
    for node_state in NodeState:
        present.labels(str(node_state)).set(0)
    for node_state, number in tx.conn.execute(
        sa.select(nodes.c.standing, count).where(nodes.c.present).group_by(nodes.c.standing)
    ):
        present.labels(node_state).set(number)
    ready = Gauge("framefarm_tasks_ready", "Tasks that could be assigned now", registry=registry)
    unfinished = farmwide(sa.select(job_state)).where(job_state.c.status.in_(["pending", "running"]))
    ready.set(sum(facts(job).ready for job in tx.rows(JobStateRow, unfinished)))
    queue = Gauge("framefarm_publish_queue", "Committed files that are not published yet", registry=registry)
    unpublished = farmwide(sa.select(count).select_from(files)).where(files.c.published_ms.is_(None))
    queue.set(tx.conn.execute(unpublished).scalar_one())
    hooks = Gauge("framefarm_webhook_queue", "Webhook deliveries not sent yet", registry=registry)
    hooks.set(webhooks.queued(tx))
    return generate_latest(registry) + generate_latest(REGISTRY)
