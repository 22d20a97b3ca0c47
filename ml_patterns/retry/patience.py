"""Writing to the operational database in the path of a request.

Belongs here: a transaction that gives up soon when another writer holds the database. Does not: the
engine (`storage/operational.py`), what its callers do without the database.

Everybody else waits half a minute for a writer; a request that has an answer must not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

PATIENCE_MS = 500


@contextmanager
def soon_or_never(engine: sa.Engine, patience_ms: int = PATIENCE_MS) -> Iterator[sa.Connection]:
    """A transaction that waits `patience_ms` for other writers, and not longer.

    Raises:
        sqlalchemy.exc.OperationalError: another writer held the database or the row.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            with connection.begin():
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(patience_ms)}")
                yield connection
            return
        raw = connection.connection.driver_connection
        if raw is None:
            raise AssertionError("a connection that was just opened has its driver's")
        # Outside a transaction, and straight to the driver: SQLAlchemy would begin one first.
        usual = raw.execute("PRAGMA busy_timeout").fetchone()[0]
        raw.execute(f"PRAGMA busy_timeout = {int(patience_ms)}")
        try:
            with connection.begin():
                yield connection
        finally:
            raw.execute(f"PRAGMA busy_timeout = {int(usual)}")
