"""The operational database: many small writers, on SQLite or PostgreSQL.

Belongs here: the engine, its settings, and creating the tables. Does not: the tables, which each
room declares on `metadata` in its own `tables.py`.
"""

import threading
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
"""All operational tables; a room declares its own on it in its `tables.py`."""

_LOCK_KEY = 7_236_001
_SQLITE_PATIENCE_MS = 30_000
_creating = threading.Lock()


@cache
def engine_for(url: str) -> sa.Engine:
    """The engine of a URL, one per process; tables that do not exist yet are created.

    SQLite runs in WAL mode, waits up to 30 s for another writer, and begins every transaction as a
    writer (`BEGIN IMMEDIATE`), so that a read followed by a write never fails half-way.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
    else:
        engine = sa.create_engine(parsed, pool_pre_ping=True)
    _create_tables(engine)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_SQLITE_PATIENCE_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _create_tables(engine: sa.Engine) -> None:
    """Creates what is missing; processes that start together do so one after the other."""
    # Imported here so that every room's tables are known without the rooms importing each other.
    from ml_patterns.circuit_breaker import tables as _breaker
    from ml_patterns.registry import tables as _registry
    from ml_patterns.retry import tables as _retry

    del _breaker, _registry, _retry
    with _creating, engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        metadata.create_all(connection)
