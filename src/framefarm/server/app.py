"""Puts the farm together; nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import structlog
from fastapi import FastAPI

from framefarm import __version__
from framefarm.server import docs_page, health, http, openapi, operator, schema
from framefarm.server.accounts import passwords
from framefarm.server.accounts import routes as account_routes
from framefarm.server.accounts import service as accounts
from framefarm.server.billing import routes as billing_routes
from framefarm.server.billing import service as billing
from framefarm.server.catalog import routes as catalog_routes
from framefarm.server.catalog import service as catalog
from framefarm.server.database import Database, Tx, sqlite_url
from framefarm.server.dispatch import Dispatcher
from framefarm.server.engines.local import RESERVED_SHARE, LocalEngine
from framefarm.server.farm import Farm, Keyring
from framefarm.server.files import routes as file_routes
from framefarm.server.jobs import routes as job_routes
from framefarm.server.jobs import scenes
from framefarm.server.places import first_place
from framefarm.server.projects import routes as project_routes
from framefarm.server.projects import service as projects
from framefarm.server.rendering import publisher
from framefarm.server.rendering.routes import NodeApi, NodeFirst
from framefarm.server.settings import Settings
from framefarm.server.storage.local import LocalStore

log = structlog.get_logger(__name__)
DATABASE = "framefarm.db"
ENDPOINT = "endpoint"
ADMIN_PASSWORD = "admin-password"
ROUTERS = (
    account_routes.router,
    project_routes.router,
    catalog_routes.router,
    file_routes.router,
    job_routes.router,
    billing_routes.router,
)


def open_farm(settings: Settings) -> Farm:
    """Open (and bring up to date, or make) the farm in `settings.data`. Close its `db` in the end."""
    data = settings.data.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    url = settings.database_url
    db = Database(url.get_secret_value() if url else sqlite_url(data / DATABASE))
    try:
        schema.upgrade(db.engine)
        farm = Farm(
            settings=settings,
            data=data,
            db=db,
            keys=Keyring.open(data / "secret.key"),
            store=LocalStore(data / "store"),
        )
        db.write_now(_first_start, farm)
    except BaseException:
        db.close()
        raise
    return farm


def _first_start(tx: Tx, farm: Farm) -> None:
    """An empty database gets its account, admin, project, instance types and a place for output."""
    if accounts.any_account(tx):
        return
    settings = farm.settings
    if settings.admin_password is not None:
        password = settings.admin_password.get_secret_value()
    else:
        password = secrets.token_urlsafe(16)
        _write_secret(farm.data / ADMIN_PASSWORD, password)
    account_id, user_id = accounts.first_start(
        tx, settings.account_name, settings.admin_email, passwords.hash_password(password)
    )
    projects.create_default(tx, account_id, user_id)
    cores = len(os.sched_getaffinity(0))
    catalog.create_local_types(tx, cores, round(psutil.virtual_memory().total * RESERVED_SHARE))
    first_place(tx, farm, account_id)


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def local_engine(farm: Farm) -> LocalEngine:
    return LocalEngine(
        farm.data / "sessions",
        farm.data / ENDPOINT,
        first_uid=farm.settings.sandbox_uid,
        sandbox=farm.settings.sandbox,
    )


def create_app(farm: Farm, engine: LocalEngine | None = None) -> FastAPI:
    """The ASGI application; with an engine it also runs the dispatcher and the farm's own loops."""
    node_api = NodeApi(farm)
    dispatcher = Dispatcher(farm, engine, f"pid-{os.getpid()}") if engine is not None else None

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        farm.hub.attach(asyncio.get_running_loop())
        async with contextlib.AsyncExitStack() as stack:
            if dispatcher is not None:
                await stack.enter_async_context(operator.serve_control(farm))
                loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
                    dispatcher.run,
                    lambda: publisher.run(farm),
                    lambda: scenes.run(farm),
                    lambda: billing.run(farm),
                    lambda: _renew_leases(farm, node_api),
                ]
                tasks = [asyncio.create_task(loop()) for loop in loops]
                stack.push_async_callback(_end, tasks)
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
    app.state.farm = farm
    app.state.available = (lambda: dispatcher.available) if dispatcher is not None else dict
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(health.router)
    docs_page.install(app)
    http.install(app)
    openapi.install(app)
    app.add_middleware(NodeFirst, router=node_api.router())
    return app


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _renew_leases(farm: Farm, node_api: NodeApi) -> None:
    """One statement a second for all calls that are held open here."""
    pause = min(1.0, farm.settings.lease_seconds / 4)
    while True:
        await asyncio.sleep(pause)
        try:
            await node_api.renew_held()
        except Exception:
            log.exception("leases_not_renewed")
