"""Units of work, and the migrations, which lead to the tables of the code."""

from __future__ import annotations

import runpy
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from framefarm.server import schema
from framefarm.server.database import Database, Tx, sqlite_url

notes = sa.Table("notes", sa.MetaData(), sa.Column("text", sa.Text, primary_key=True))


@pytest.fixture
def db(tmp_path: Path, database_url: str | None):  # type: ignore[no-untyped-def]
    opened = Database(database_url or sqlite_url(tmp_path / "units.db"))
    opened.write_now(lambda tx: notes.create(tx.conn))
    yield opened
    opened.close()


def add(tx: Tx, text: str) -> str:
    tx.conn.execute(sa.insert(notes).values(text=text))
    return text


def texts(tx: Tx) -> set[str]:
    return set(tx.conn.execute(sa.select(notes.c.text)).scalars())


def test_a_later_reader_sees_the_rows_of_a_unit(db: Database) -> None:
    assert db.write_now(add, "one") == "one"
    assert db.read_now(texts) == {"one"}


def test_a_failing_unit_writes_nothing_and_its_caller_gets_the_error(db: Database) -> None:
    def bad(tx: Tx) -> None:
        add(tx, "half")
        raise LookupError("no")

    with pytest.raises(LookupError):
        db.write_now(bad)
    assert db.read_now(texts) == set()


def _together(db: Database, texts_to_add: list[str]) -> list[Future[str]]:
    """Submit units while another one runs, so that SQLite commits them together."""
    begun, resume = threading.Event(), threading.Event()

    def first(tx: Tx) -> None:
        begun.set()
        assert resume.wait(30)

    waiting = db.submit(first)
    assert begun.wait(30)
    futures = [db.submit(add, text) for text in texts_to_add]
    resume.set()
    waiting.result(30)
    return futures


def test_all_waiting_units_are_committed(db: Database) -> None:
    names = [f"n{i}" for i in range(300)]
    assert [f.result(30) for f in _together(db, names)] == names
    assert db.read_now(texts) == set(names)


def test_a_failing_unit_among_others_fails_alone(db: Database) -> None:
    futures = _together(db, ["a", "b", "c"])
    assert [f.result(30) for f in futures] == ["a", "b", "c"]
    again = _together(db, ["d", "a", "e"])
    assert (again[0].result(30), again[2].result(30)) == ("d", "e")
    with pytest.raises(sa.exc.IntegrityError):
        again[1].result(30)
    assert db.read_now(texts) == {"a", "b", "c", "d", "e"}


def test_a_failing_unit_whose_caller_was_cancelled_stops_no_other(db: Database) -> None:
    begun, resume = threading.Event(), threading.Event()

    def first(tx: Tx) -> None:
        begun.set()
        assert resume.wait(30)

    def bad(tx: Tx) -> None:
        raise LookupError("no")

    waiting = db.submit(first)
    assert begun.wait(30)
    cancelled = db.submit(bad)
    cancelled.cancel()
    resume.set()
    waiting.result(30)
    assert db.submit(add, "after").result(30) == "after"


def test_on_sqlite_waiting_units_share_one_commit(tmp_path: Path) -> None:
    db = Database(sqlite_url(tmp_path / "commits.db"))
    db.write_now(lambda tx: notes.create(tx.conn))
    commits = []
    sa.event.listen(db.engine, "commit", lambda conn: commits.append(1))
    for future in _together(db, [f"n{i}" for i in range(100)]):
        future.result(30)
    db.close()
    assert len(commits) == 2  # the first unit, and one for all the others


def test_after_commit_runs_only_for_committed_units(db: Database) -> None:
    calls: list[str] = []

    def work(tx: Tx, text: str, fail: bool) -> None:
        tx.after_commit(lambda: calls.append(text))
        if fail:
            raise LookupError

    with pytest.raises(LookupError):
        db.write_now(work, "bad", True)
    db.write_now(work, "good", False)
    assert calls == ["good"]


def test_a_closed_database_finishes_queued_units_and_refuses_new_ones(db: Database) -> None:
    futures = _together(db, ["x", "y"])
    db.close()
    assert [f.result(0) for f in futures] == ["x", "y"]
    with pytest.raises(RuntimeError):
        db.submit(add, "z")


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_the_migrations_make_exactly_the_tables_of_the_code(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "sqlite":
        url = sqlite_url(tmp_path / "empty.db")
    else:
        url = request.getfixturevalue("postgres")(False)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    schema.upgrade(engine)
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    schema.upgrade(engine)  # a second time changes nothing
    engine.dispose()


def test_the_row_classes_are_those_of_the_tables() -> None:
    script = Path(__file__).parents[2] / "script" / "make_rows.py"
    names = runpy.run_path(str(script))
    assert names["TARGET"].read_text() == names["text"](), "run script/make_rows.py"
