"""Assembly of the running server: the ASGI application, and the loops beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from fastapi import FastAPI

from framefarm import __version__
from framefarm.server import docs_page, health
from framefarm.server.accounts import routes as account_routes
from framefarm.server.accounts.callers import authenticate
from framefarm.server.billing import routes as billing_routes
from framefarm.server.billing import service as billing
from framefarm.server.budgets import routes as budget_routes
from framefarm.server.catalog import routes as catalog_routes
from framefarm.server.context import AppContext
from framefarm.server.dispatch.dispatcher import Dispatcher
from framefarm.server.engines.local import LocalEngine
from framefarm.server.events import routes as event_routes
from framefarm.server.events import streams
from framefarm.server.files import routes as file_routes
from framefarm.server.http import openapi, request_limits
from framefarm.server.job_api import routes as job_routes
from framefarm.server.loops import repeat
from framefarm.server.mail import sender as mail
from framefarm.server.operator import control_socket
from framefarm.server.outputs import publisher, staging_cleanup
from framefarm.server.outputs import routes as output_routes
from framefarm.server.projects import routes as project_routes
from framefarm.server.retention import service as retention
from framefarm.server.sessions.routes import NodeApi, NodeFirst
from framefarm.server.submission import scene_reading
from framefarm.server.webhooks import routes as webhook_routes
from framefarm.server.webhooks.sender import Sender
from framefarm.server.wrangler import routes as wrangler_routes
from framefarm.server.wrangler import rule_engine as wrangler

log = structlog.get_logger(__name__)
AGAIN_SECONDS = 1.0
"""Pause before a failed loop is started again."""
ROUTERS = (
    account_routes.router,
    project_routes.router,
    catalog_routes.router,
    file_routes.router,
    output_routes.router,
    job_routes.router,
    event_routes.router,
    webhook_routes.router,
    billing_routes.router,
    budget_routes.router,
    wrangler_routes.router,
)


def create_app(context: AppContext, engine: LocalEngine | None = None) -> FastAPI:
    """Create the ASGI application; with an engine it also runs the dispatcher and the farm's own loops."""
    node_api = NodeApi(context)
    followers = streams.Streams(context)
    holder = f"{socket.gethostname()}:{context.data}"  # one process at a time holds a data directory
    dispatcher = Dispatcher(context, engine, holder) if engine is not None else None

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        context.hub.attach(asyncio.get_running_loop())
        async with contextlib.AsyncExitStack() as stack:
            loops: list[Callable[[], Awaitable[None]]] = [followers.run]
            if dispatcher is not None:
                await stack.enter_async_context(control_socket.serve_control(context))
                loops += [
                    dispatcher.run,
                    lambda: publisher.run(context),
                    lambda: staging_cleanup.run(context),
                    lambda: scene_reading.run_loop(context),
                    lambda: billing.run(context),
                    Sender(context, lambda: followers.position).run,
                    lambda: mail.run(context, lambda: followers.position),
                    lambda: wrangler.run(context, dispatcher.require_lead),
                    lambda: retention.run(context, dispatcher.require_lead),
                ]
            loops.append(lambda: _renew_leases(context, node_api))
            tasks = [asyncio.create_task(_keep_running(loop)) for loop in loops]
            stack.push_async_callback(_cancel, tasks)
            yield

    app = FastAPI(
        title="framefarm",
        version=__version__,
        description="A self-hosted cloud render farm for Blender.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.streams = followers
    app.state.available = (lambda: dispatcher.available) if dispatcher is not None else dict
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(health.router)
    docs_page.install(app)
    request_limits.install(app, authenticate)
    openapi.install(app)
    app.add_middleware(NodeFirst, router=node_api.router())
    return app


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_running(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop, and start it again after a failure: else the farm would answer and render nothing."""
    await repeat(loop, seconds=AGAIN_SECONDS, failure="loop_failed")


async def _renew_leases(context: AppContext, node_api: NodeApi) -> None:
    """Renew the leases of all runners' calls that this process holds open: one statement a second."""
    pause = min(1.0, context.settings.lease_seconds / 4)
    await repeat(node_api.renew_held, seconds=pause, failure="leases_not_renewed")
