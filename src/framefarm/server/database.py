"""The farm's database: units of work, on SQLite or PostgreSQL.

A unit of work is a plain function `work(tx, …)`. It runs in a thread and in one transaction, which
`Database` commits; it never commits itself. On SQLite one thread writes: units that arrive during a commit
share the next one, each with a savepoint of its own, so that a failing unit fails alone. On PostgreSQL each
unit is a transaction of its own on a small pool of connections.
"""

from __future__ import annotations

import asyncio
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from framefarm.server.metrics import COMMIT_SECONDS
from framefarm.server.tracing import span

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R")
Values = Mapping[str, Any]

log = structlog.get_logger(__name__)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)


class EnumText(sa.TypeDecorator[StrEnum]):
    """Column type of a `StrEnum`, stored as text: rows hold members, statements take members or strings."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else str(self.members(value))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:
        return None if value is None else self.members(value)


RETRIED = frozenset({"40001", "40P01", "23505"})
"""SQLSTATEs after which a unit runs again: a serialization failure, a deadlock, and a violated unique
constraint, which the unit's own check then reports."""
BATCH = 128
"""Most units of work in one commit on SQLite."""


def wall_clock_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class ServerClock:
    """The PostgreSQL server's clock, so that several machines judge leases by the same time.

    `refresh` reads it every few seconds; between two readings this process's monotonic clock is added.
    """

    KEPT_SECONDS = 5.0
    """Time between two readings."""
    STEP_BACK_MS = 1000
    """Steps back below this are drift: the clock then stands still until the time catches up."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._read_at = -math.inf
        """When the server's clock was read, by the monotonic clock."""
        self._server_ms = 0.0
        self._last_ms = 0

    def __call__(self) -> int:
        with self._lock:
            if self._read_at == -math.inf:
                self._read()
            now_ms = round(self._server_ms + (time.monotonic() - self._read_at) * 1000)
            if not 0 < self._last_ms - now_ms < self.STEP_BACK_MS:
                self._last_ms = now_ms
            return self._last_ms

    def refresh(self) -> None:
        """Read the server's clock if the last reading is too old; call it in a thread of the database."""
        with self._lock:
            if time.monotonic() - self._read_at >= self.KEPT_SECONDS:
                self._read()

    def _read(self) -> None:
        with self._engine.connect() as conn:
            began = time.monotonic()
            server_ms = conn.execute(
                sa.text("SELECT extract(epoch FROM clock_timestamp()) * 1000")
            ).scalar_one()
            self._read_at = (began + time.monotonic()) / 2
            self._server_ms = float(server_ms)


# `Any`: each subscriber takes its own event class, each unit has its own result.
Subscribers = dict[type[Any], list[Callable[["Tx", Any], None]]]


@dataclass(slots=True)
class Tx:
    """A unit's transaction: its connection, its time (ms since the epoch), and actions after the commit."""

    conn: sa.Connection
    now_ms: int
    after: list[Callable[[], None]] = field(default_factory=list)
    topics: set[str] = field(default_factory=set)
    """Topics to wake after the commit, once for all units of that commit."""
    subscribers: Subscribers = field(default_factory=dict)

    def rows(self, row: type[R], query: sa.Executable, values: Values | None = None) -> list[R]:
        """All rows of a query, whose columns are the fields of the row class `row`."""
        return [row(**result._mapping) for result in self.conn.execute(query, values)]

    def row(self, row: type[R], query: sa.Executable, values: Values | None = None) -> R:
        """The only row of such a query. Raises sqlalchemy.exc.NoResultFound, MultipleResultsFound."""
        return row(**self.conn.execute(query, values).one()._mapping)

    def row_or_none(self, row: type[R], query: sa.Executable, values: Values | None = None) -> R | None:
        """The only row of such a query, or None. Raises sqlalchemy.exc.MultipleResultsFound."""
        result = self.conn.execute(query, values).one_or_none()
        return None if result is None else row(**result._mapping)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` in the database's thread after the commit. It must be quick and not raise."""
        self.after.append(action)

    def wake(self, *topics: str) -> None:
        """Wake the listeners of these topics (`WakeHub.wake`) once the commit is durable."""
        self.topics.update(topics)

    def publish(self, event: object) -> None:
        """Call every subscriber of the event's class, in this transaction.

        Raises RuntimeError if there is none: a database without its subscribers would lose charges.
        """
        handlers = self.subscribers.get(type(event))
        if not handlers:
            raise RuntimeError(f"no subscriber for {type(event).__name__}: open the farm with open_farm()")
        for handler in handlers:
            handler(self, event)


Work = Callable[Concatenate[Tx, P], T]


@dataclass(slots=True)
class _Unit:
    work: Callable[[Tx], Any]
    future: Future[Any]
    context: Context
    """The caller's context variables: log lines of the unit have its request's id."""


class Database:
    """Runs units of work. `url` is an SQLAlchemy URL of SQLite (a file) or PostgreSQL (psycopg)."""

    def __init__(self, url: str, *, clock_ms: Callable[[], int] | None = None, readers: int = 4) -> None:
        self.url = sa.make_url(url)
        self.clock_ms: Callable[[], int] = clock_ms or wall_clock_ms
        """Time of units, in ms since the epoch: of the PostgreSQL server, or with SQLite of this machine."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.wake: Callable[..., None] = lambda *topics: None
        """Called with the topics of committed units, in the database's thread."""
        self._subscribers: Subscribers = {}
        self._closed = False
        self._closing = threading.Lock()
        """Held while a unit is queued, or the database closed: no unit is queued behind the end."""
        if self.is_sqlite:
            self.engine = _sqlite_engine(self.url, "BEGIN IMMEDIATE", size=1)
            self._read_engine = _sqlite_engine(self.url, "BEGIN", size=readers)
            self._readers = ThreadPoolExecutor(readers, thread_name_prefix="db-read")
            self._queue: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
            self._writer = threading.Thread(target=self._write_loop, name="db-write", daemon=True)
            self._writer.start()
        else:
            self.engine = sa.create_engine(
                self.url, poolclass=QueuePool, pool_size=2 * readers, pool_pre_ping=True
            )
            if clock_ms is None:
                self.clock_ms = ServerClock(self.engine)
            self._read_engine = self.engine
            self._readers = ThreadPoolExecutor(2 * readers, thread_name_prefix="db")

    def subscribe(self, event: type[E], handler: Callable[[Tx, E], None]) -> None:
        """Call `handler` for each `tx.publish` of an `event`, in the publisher's transaction."""
        self._subscribers.setdefault(event, []).append(handler)

    # -- for async callers

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, …)` in a transaction of its own; returns its result once it is durable.

        Raises the exception of `work`, and RuntimeError once the database is closed.
        """
        with span("write", work=getattr(work, "__name__", "")):
            return await asyncio.wrap_future(self.submit(work, *args, **kwargs))

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(tx, …)`, which must not write, on one snapshot. Raises as `write` does."""
        with self._closing:
            self._must_be_open()
            future = self._readers.submit(
                copy_context().run, self._run_read, lambda tx: work(tx, *args, **kwargs)
            )
        return await asyncio.wrap_future(future)

    # -- for threads

    def submit(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `work(tx, …)` as `write` does. Raises RuntimeError once the database is closed."""

        def unit(tx: Tx) -> T:
            return work(tx, *args, **kwargs)

        with self._closing:
            self._must_be_open()
            if self.is_sqlite:
                future: Future[T] = Future()
                self._queue.put(_Unit(unit, future, copy_context()))
                return future
            return self._readers.submit(copy_context().run, self._run_own, unit)

    def _must_be_open(self) -> None:
        if self._closed:
            raise RuntimeError("the database is closed")

    def write_now(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` as `write` does, and wait for it; not in the event loop."""
        return self.submit(work, *args, **kwargs).result()

    def read_now(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a `work` that only reads, in this thread."""
        return self._run_read(lambda tx: work(tx, *args, **kwargs))

    def close(self) -> None:
        """Finish the queued units, then close all connections."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            if self.is_sqlite:
                self._queue.put(None)
        if self.is_sqlite:
            self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()
        self._read_engine.dispose()

    # -- inside

    def _run_read(self, work: Callable[[Tx], T]) -> T:
        with self._read_engine.connect() as conn, conn.begin():
            return work(Tx(conn, self.clock_ms()))

    def _run_own(self, work: Callable[[Tx], T]) -> T:
        for attempt in range(6):
            try:
                if isinstance(self.clock_ms, ServerClock):
                    self.clock_ms.refresh()
                with self.engine.begin() as conn:
                    tx = Tx(conn, self.clock_ms(), subscribers=self._subscribers)
                    result = work(tx)
                    began = time.perf_counter()
                COMMIT_SECONDS.observe(time.perf_counter() - began)
            except sa.exc.DBAPIError as error:
                if attempt == 5 or getattr(error.orig, "sqlstate", None) not in RETRIED:
                    raise
                continue
            _run_after(tx.after)
            self._wake(tx.topics)
            return result
        raise AssertionError("unreachable")

    def _write_loop(self) -> None:
        with self.engine.connect() as conn:
            while True:
                first = self._queue.get()
                if first is None:
                    return
                units = [first]
                ended = False
                while len(units) < BATCH:
                    try:
                        more = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        ended = True
                        break
                    units.append(more)
                self._commit_together(conn, units)
                if ended:
                    return

    def _commit_together(self, conn: sa.Connection, units: list[_Unit]) -> None:
        done: list[tuple[_Unit, Any, BaseException | None]] = []
        after: list[Callable[[], None]] = []
        topics: set[str] = set()
        began = 0.0
        try:
            with conn.begin():
                for unit in units:
                    tx = Tx(conn, self.clock_ms(), subscribers=self._subscribers)
                    conn.exec_driver_sql("SAVEPOINT unit")
                    try:
                        result = unit.context.run(unit.work, tx)
                    except BaseException as error:
                        conn.exec_driver_sql("ROLLBACK TO unit")
                        done.append((unit, None, error))
                    else:
                        done.append((unit, result, None))
                        after.extend(tx.after)
                        topics |= tx.topics
                    conn.exec_driver_sql("RELEASE unit")
                began = time.perf_counter()
            COMMIT_SECONDS.observe(time.perf_counter() - began)
        except BaseException as error:
            done, after, topics = [(unit, None, error) for unit in units], [], set()
        _run_after(after)
        self._wake(topics)
        for unit, result, failure in done:
            if not unit.future.set_running_or_notify_cancel():
                continue  # the caller was cancelled; the commit stays
            if failure is not None:
                unit.future.set_exception(failure)
            else:
                unit.future.set_result(result)

    def _wake(self, topics: set[str]) -> None:
        if topics:
            self.wake(*topics)


def _run_after(actions: list[Callable[[], None]]) -> None:
    for action in actions:
        try:
            action()
        except Exception:
            log.exception("after_commit_failed")


def _sqlite_engine(url: sa.URL, begin: str, size: int) -> sa.Engine:
    if url.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: the farm reads it from several threads")
    engine = sa.create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=size,
        connect_args={"check_same_thread": False, "timeout": 30, "cached_statements": 512},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # `start` sends BEGIN
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cache_size=-8000")

    @sa.event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def sqlite_url(path: Path) -> str:
    """SQLAlchemy URL of an SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
