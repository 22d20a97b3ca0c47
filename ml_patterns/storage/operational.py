"""The operational database: many small writers, on SQLite or PostgreSQL.

Belongs here: the engine, its settings, and the lock under which the schema is brought up to date.
Does not: the tables, which each room declares on `metadata` in its own `tables.py`; the steps from
one schema to the next (`schema.py`).
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ml_patterns.storage import schema

metadata = sa.MetaData()
"""All operational tables; a room declares its own on it in its `tables.py`."""

_READ_ONLY = "ml_patterns_read_only"
_LOCK_KEY = 7_236_001
_SQLITE_PATIENCE_MS = 30_000
_upgrading = threading.Lock()


class UtcDateTime(sa.TypeDecorator[datetime]):
    """An instant: goes in time zone aware, comes back UTC (SQLite itself keeps no zone)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """UTC for the database; an instant without a zone is a bug and refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """UTC for us."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@cache
def engine_for(url: str) -> sa.Engine:
    """The engine of a URL, one per process; its database is brought to the newest schema.

    SQLite runs in WAL mode, waits up to 30 s for another writer, and begins every transaction as a
    writer (`BEGIN IMMEDIATE`), so that a read followed by a write never fails half-way; `reading`
    waits for nobody.

    Raises:
        UserError: the database was made by a newer version of this code.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = sa.create_engine(parsed, pool_pre_ping=True)
    try:
        _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that only reads one snapshot and never waits for a writer."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_SQLITE_PATIENCE_MS}")
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _write_ahead(connection: Any) -> None:
    """Turns the write-ahead log on.

    While others open the same new file, SQLite refuses this one statement at once, however patient
    `busy_timeout` is.
    """
    deadline = time.monotonic() + _SQLITE_PATIENCE_MS / 1000
    while connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _upgrade(engine: sa.Engine) -> None:
    """Brings the schema up to date; processes that start together do so one after the other."""
    with reading(engine) as connection:
        if schema.version_of(connection) == schema.HEAD:
            return
    with _upgrading, engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        schema.upgrade(connection)
