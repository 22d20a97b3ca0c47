"""One file, many who want it: opened late, closed whatever happens, waited for with an end."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from ml_patterns.errors import WarehouseBusyError
from ml_patterns.storage.warehouse import Warehouse, has_table


def test_a_connection_is_closed_although_its_user_fails(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "new" / "warehouse.duckdb")
    with pytest.raises(RuntimeError), warehouse.connect() as connection:
        raise RuntimeError
    with pytest.raises(duckdb.ConnectionException):
        connection.execute("SELECT 1")


def test_times_are_utc_wherever_the_machine_is(tmp_path: Path) -> None:
    with Warehouse(tmp_path / "w.duckdb").connect() as connection:
        found = connection.execute("SELECT TIMESTAMPTZ '2026-06-01 12:00+02'::TIMESTAMP").fetchone()
    assert found
    assert found[0].hour == 10


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w.duckdb")
    with warehouse.connect() as connection:
        connection.execute("CREATE TABLE t(a INT)")
        assert has_table(connection, "main", "t")
        assert not has_table(connection, "main", "u")
    with warehouse.connect(read_only=True) as reader:
        assert reader.execute("FROM t").fetchall() == []
        with pytest.raises(duckdb.InvalidInputException):
            reader.execute("INSERT INTO t VALUES (1)")


def _hold(path: str, held: object, release: object) -> None:
    with duckdb.connect(path):
        held.set()  # type: ignore[attr-defined]
        release.wait()  # type: ignore[attr-defined]


def test_waiting_ends_with_a_sentence_that_names_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(path), held, release))
    holder.start()
    try:
        held.wait()
        seconds = iter(range(100))
        pauses: list[float] = []
        warehouse = Warehouse(
            path, timedelta(seconds=9), pauses.append, lambda: float(next(seconds))
        )
        with pytest.raises(WarehouseBusyError) as told, warehouse.connect():
            pass
        assert f"process {holder.pid} (" in str(told.value)
        assert "for more than 9 s; end that process or wait" in str(told.value)
        assert len(pauses) == 8
        assert max(pauses) <= 0.5

        def let_go(_: float) -> None:
            release.set()
            holder.join()

        with Warehouse(path, sleep=let_go).connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        release.set()
        holder.join()


def test_a_file_that_is_no_warehouse_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    path.write_bytes(b"something else" * 1_000)
    with pytest.raises(duckdb.Error), Warehouse(path, sleep=pytest.fail).connect():
        pass
