"""Statements that run at once end with whoever wanted them."""

from concurrent.futures import Future
from pathlib import Path

import duckdb
import pytest

from ml_patterns.storage.side_by_side import side_by_side
from ml_patterns.storage.warehouse import Warehouse

ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = 7"


def test_each_has_a_connection_of_its_own(tmp_path: Path) -> None:
    def temporary(connection: duckdb.DuckDBPyConnection) -> int:
        connection.execute("CREATE OR REPLACE TEMP TABLE t AS SELECT 21 AS a")
        row = connection.execute("SELECT 2 * a FROM t").fetchone()
        return int(row[0]) if row else 0

    with Warehouse(tmp_path / "w.duckdb").connect() as connection:
        with side_by_side(connection, 2) as submit:
            futures = [submit(temporary) for _ in range(20)]
            assert [future.result() for future in futures] == [42] * 20
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_what_still_runs_is_interrupted_and_what_waits_never_starts(tmp_path: Path) -> None:
    interrupted, begun = [], []

    def stubborn(connection: duckdb.DuckDBPyConnection) -> None:
        """Begins another statement after each that was interrupted, as a fallback would."""
        begun.append(True)
        for _ in range(3):
            with pytest.raises(duckdb.InterruptException):
                connection.execute(ENDLESS)
            interrupted.append(True)

    def leave_at_once(connection: duckdb.DuckDBPyConnection) -> list[Future[None]]:
        with side_by_side(connection, 2) as submit:
            return [submit(stubborn) for _ in range(7)]

    with Warehouse(tmp_path / "w.duckdb").connect() as connection:
        ended = leave_at_once(connection)
        never = [future for future in ended if future.cancelled()]
        assert len(never) >= 5
        assert len(begun) == 7 - len(never)
        assert len(interrupted) == 3 * len(begun)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
