"""Fixtures: a farm on SQLite and on a real PostgreSQL, and clients of its API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_client import ApiClient, a_farm, a_site, token_of

from framefarm.server.accounts import service as accounts
from framefarm.server.context import AppContext
from framefarm.server.database import Tx
from framefarm.server.projects import service as projects


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """URL of an empty database; None: SQLite in the data directory."""
    if request.param == "sqlite":
        yield None
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres(True)
    yield url
    postgres.drop(url)


@pytest.fixture
def context(tmp_path: Path, database_url: str | None) -> Iterator[AppContext]:
    with a_farm(tmp_path, database_url) as opened:
        yield opened


@pytest.fixture
def site(context: AppContext) -> Iterator[ApiClient]:
    with a_site(context) as client:
        yield client


@pytest.fixture
def other(site: ApiClient) -> ApiClient:
    """A client with the token of another account's admin, on the same farm."""
    context, email = site.context, "eve@rival.example"

    def work(tx: Tx) -> tuple[str, str]:
        account_id = accounts.create_account(tx, "rival")
        projects.create(tx, account_id, "", "default", "operator")
        accounts.create_user(tx, account_id, email, "no password", "admin", "operator")
        return token_of(tx, context, email)

    token, account_id = context.db.write_now(work)
    return ApiClient(context, site.loop, site.app, token, account_id, email, site.instance)
