"""Opening of the farm in a data directory; a missing one is created."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import psutil

from framefarm.sandboxing import orphans
from framefarm.server import schema
from framefarm.server.accounts import passwords
from framefarm.server.accounts import service as accounts
from framefarm.server.billing import service as billing
from framefarm.server.catalog import service as catalog
from framefarm.server.catalog.destinations import grant_default
from framefarm.server.context import AppContext, Keyring
from framefarm.server.database import Database, Tx, sqlite_url
from framefarm.server.engines.local import RESERVED_SHARE, LocalEngine
from framefarm.server.files.service import FilesArrived
from framefarm.server.jobs.state import JobFinished
from framefarm.server.projects import service as projects
from framefarm.server.settings import Settings
from framefarm.server.storage.local import LocalStore
from framefarm.server.submission import scene_reading

DATABASE = "framefarm.db"
ENDPOINT = "endpoint"
SESSIONS = "sessions"
ADMIN_PASSWORD = "admin-password"


def open_farm(settings: Settings) -> AppContext:
    """Open the farm in `settings.data`: create it if missing, and migrate its database.

    The caller closes the context's `db`. Raises ValueError for a damaged secret.
    """
    data = settings.data.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    url = settings.database_url
    db = Database(url.get_secret_value() if url else sqlite_url(data / DATABASE))
    try:
        schema.upgrade(db.engine)
        context = AppContext(
            settings=settings,
            data=data,
            db=db,
            keys=Keyring.open(data / "secret.key"),
            store=LocalStore(data / "store"),
        )
        _subscribe(context)
        db.write_now(_first_start, context)
        if settings.sandbox == "none" and os.geteuid() == 0:
            _open_to_slot_users(data)
    except BaseException:
        db.close()
        raise
    return context


def _subscribe(context: AppContext) -> None:
    """Subscribe to events of lower rooms: higher rooms act on them in the same transaction."""
    store = context.store

    def charge(tx: Tx, job: JobFinished) -> None:
        billing.charge_job(tx, job.account_id, job.job_id)

    context.db.subscribe(JobFinished, charge)
    context.db.subscribe(
        FilesArrived, lambda tx, files: scene_reading.accept_arrived_files(tx, store, files.job_ids)
    )


def _open_to_slot_users(data: Path) -> None:
    """Let any user traverse the data directory to the sessions, and to no other entry of it.

    Without bubblewrap Blender's user reaches its files by their real paths.
    """
    for name in ("store", "outputs", "buckets"):
        (data / name).mkdir(exist_ok=True)
    for entry in data.iterdir():
        if not entry.is_symlink() and entry.name != SESSIONS:
            entry.chmod(entry.stat().st_mode & ~0o077)
    data.chmod(0o711)


def _first_start(tx: Tx, context: AppContext) -> None:
    """Give an empty database an account, its admin, a project, instance types and an output destination."""
    if accounts.any_account(tx):
        return
    settings = context.settings
    if settings.admin_password is not None:
        password = settings.admin_password.get_secret_value()
    else:
        password = secrets.token_urlsafe(16)
        _write_secret(context.data / ADMIN_PASSWORD, password)
    account_id, user_id = accounts.first_start(
        tx, settings.account_name, settings.admin_email, passwords.hash_password(password)
    )
    projects.create_default(tx, account_id, user_id)
    cores = len(os.sched_getaffinity(0))
    catalog.create_local_types(tx, cores, round(psutil.virtual_memory().total * RESERVED_SHARE))
    grant_default(tx, context, account_id)


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def local_engine(context: AppContext) -> LocalEngine:
    """Create the engine of this machine, and end orphans: sandboxes that a killed farm had just started."""
    orphans.end_orphans()
    return LocalEngine(
        context.data / SESSIONS,
        context.data / ENDPOINT,
        first_uid=context.settings.sandbox_uid,
        sandbox=context.settings.sandbox,
    )
