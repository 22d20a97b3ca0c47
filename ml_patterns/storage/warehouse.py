"""The warehouse: one DuckDB file, held by one process at a time.

Belongs here: opening, waiting for and closing the file. Does not: the DuckDB instance that opens
it (`engine.py`), what is in it.

Whoever needs the file opens it late and closes it early, and never holds it while it trains, calls
a service or computes in Python. A process that finds it taken waits with a bounded backoff.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb

from ml_patterns.errors import WarehouseBusyError
from ml_patterns.storage import engine

_HOLDER = re.compile(r"held in (.+?)\s*\(PID (\d+)\)")
_LONGEST_PAUSE = 0.5


@dataclass(frozen=True)
class Warehouse:
    """A DuckDB file and how long to wait for it."""

    path: Path
    patience: timedelta = timedelta(minutes=10)
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    @contextmanager
    def connect(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that is closed whatever happens; the session's zone is UTC.

        Raises:
            WarehouseBusyError: another process held the file all the time; names the holder.
            KeyboardInterrupt: a signal came while a statement ran.
        """
        connection = self._open(read_only=read_only)
        try:
            with engine.interruptible(connection):
                yield connection
        finally:
            engine.disconnect(self.path, connection)

    def _open(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        if not read_only:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = self.monotonic() + self.patience.total_seconds()
        pause = 0.01
        while True:
            try:
                return engine.connect(self.path, read_only=read_only)
            except (duckdb.IOException, duckdb.ResourceInUseException) as error:
                if isinstance(error, duckdb.IOException) and "lock" not in str(error):
                    raise
                if self.monotonic() >= deadline:
                    raise WarehouseBusyError(self._busy(error)) from error
            self.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _busy(self, error: duckdb.Error) -> str:
        match = _HOLDER.search(str(error))
        holder = f"process {match[2]} ({match[1]})" if match else "another process"
        if isinstance(error, duckdb.ResourceInUseException):
            holder = "another thread of this process"
        return (
            f"the warehouse {self.path} was held by {holder} for more than "
            f"{self.patience.total_seconds():g} s; end that process or wait, then run again"
        )


def has_table(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    """Whether a schema has a table of that name yet."""
    found = connection.execute(
        # Three times faster than information_schema, which is asked for every partition batch.
        "SELECT 1 FROM duckdb_tables() WHERE schema_name = ? AND table_name = ?",
        [schema, table],
    ).fetchone()
    return found is not None
