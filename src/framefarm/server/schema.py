"""All tables of the farm, imported so that `metadata` is complete, and the migration of a database."""

from __future__ import annotations

from importlib.resources import files as package_files

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from framefarm.server.accounts import tables as accounts
from framefarm.server.billing import tables as billing
from framefarm.server.budgets import tables as budgets
from framefarm.server.catalog import tables as catalog
from framefarm.server.database import metadata
from framefarm.server.dispatch import tables as dispatch
from framefarm.server.events import tables as events
from framefarm.server.files import tables as files
from framefarm.server.http import tables as http
from framefarm.server.jobs import tables as jobs
from framefarm.server.mail import tables as mail
from framefarm.server.nodes import tables as nodes
from framefarm.server.projects import tables as projects
from framefarm.server.sessions import tables as sessions
from framefarm.server.webhooks import tables as webhooks
from framefarm.server.wrangler import tables as wrangler

__all__ = [
    "accounts", "billing", "budgets", "catalog", "dispatch", "events", "files", "http", "jobs", "mail",
    "metadata", "nodes", "projects", "sessions", "upgrade", "webhooks", "wrangler",
]  # fmt: skip


def alembic_config(engine: sa.Engine | None = None) -> Config:
    """Alembic's configuration for the farm's migrations."""
    config = Config()
    config.set_main_option("script_location", str(package_files("framefarm.server") / "migrations"))
    config.attributes["engine"] = engine
    return config


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Migrate the database of `engine` to `revision`."""
    command.upgrade(alembic_config(engine), revision)
