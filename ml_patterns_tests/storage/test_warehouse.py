"""One file, many who want it: opened late, closed whatever happens, waited for with an end."""

import multiprocessing
import subprocess
import sys
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


def test_nothing_of_a_file_is_held_between_two_connections(tmp_path: Path) -> None:
    """The instance is kept for the next one, the file is not: others open it at once."""
    warehouse = Warehouse(tmp_path / "w.duckdb")
    for number in range(3):
        with warehouse.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t(a INT)")
            connection.execute("INSERT INTO t VALUES (?)", [number])
        assert not warehouse.path.with_suffix(".duckdb.wal").exists()
        count = "import duckdb, sys; print(duckdb.connect(sys.argv[1]).sql('FROM t').fetchall())"
        found = subprocess.run(
            [sys.executable, "-c", count, warehouse.path],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert found.stdout.strip() == str([(earlier,) for earlier in range(number + 1)])


def test_two_warehouses_of_one_process_do_not_meet(tmp_path: Path) -> None:
    one, other = Warehouse(tmp_path / "1" / "w.duckdb"), Warehouse(tmp_path / "2" / "w.duckdb")
    with one.connect() as here, other.connect() as there:
        here.execute("CREATE SCHEMA shop; CREATE TABLE shop.t AS SELECT 1 AS a")
        assert not has_table(there, "shop", "t")
        there.execute("CREATE SCHEMA shop; CREATE TABLE shop.t AS SELECT 2 AS a")
    with other.connect() as here, one.connect() as there:
        assert here.execute("FROM shop.t").fetchall() == [(2,)]
        assert there.execute("FROM shop.t").fetchall() == [(1,)]


def test_a_cursor_is_in_the_warehouse_of_its_connection(tmp_path: Path) -> None:
    with Warehouse(tmp_path / "w.duckdb").connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        with connection.cursor() as cursor:
            assert cursor.execute("SELECT a, current_setting('TimeZone') FROM t").fetchall() == [
                (1, connection.execute("SELECT current_setting('TimeZone')").fetchall()[0][0])
            ]


@pytest.mark.parametrize("pipeline", ["warehouse", "memory", "w"])
def test_a_schema_may_be_called_like_a_database(tmp_path: Path, pipeline: str) -> None:
    """DuckDB refuses `warehouse.t` as ambiguous where both are called so."""
    for _ in range(2):
        with Warehouse(tmp_path / "w.duckdb").connect() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {pipeline}")
            connection.execute(f"CREATE OR REPLACE TABLE {pipeline}.t AS SELECT 1 AS a")
            assert connection.execute(f"FROM {pipeline}.t").fetchall() == [(1,)]


def test_a_writer_waits_for_readers_of_its_process_and_readers_join_a_writer(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.duckdb"
    with Warehouse(path).connect() as writer:
        writer.execute("CREATE TABLE t(a INT)")
        with Warehouse(path).connect(read_only=True) as reader:
            assert reader.execute("FROM t").fetchall() == []
    with Warehouse(path).connect(read_only=True):
        impatient = Warehouse(path, timedelta(0))
        with (
            pytest.raises(WarehouseBusyError, match="held by another thread of this process"),
            impatient.connect(),
        ):
            pass
        with Warehouse(path).connect(read_only=True) as second:
            assert second.execute("FROM t").fetchall() == []
    with Warehouse(path).connect() as writer:
        writer.execute("INSERT INTO t VALUES (1)")


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from ml_patterns.storage.warehouse import Warehouse

warehouse = Warehouse(Path(sys.argv[1]))
with warehouse.connect() as connection:
    connection.execute("CREATE TABLE t AS FROM range(10)")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
room = warehouse.path.stat().st_size + 20_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
with warehouse.connect() as connection:
    connection.execute("INSERT INTO t FROM range(2000)")
assert warehouse.path.with_suffix(".duckdb.wal").exists(), "the log was written into the file"
resource.setrlimit(resource.RLIMIT_FSIZE, before)
with warehouse.connect() as connection:
    print(connection.execute("SELECT count(*) FROM t").fetchall())
"""


def test_a_full_disk_at_closing_loses_nothing_and_lets_the_file_go(tmp_path: Path) -> None:
    """The log holds what was committed; the next connection of the same process finds it."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, tmp_path / "w.duckdb"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[(2010,)]"


_FORK = """
import os, sys
from pathlib import Path
from ml_patterns.storage.warehouse import Warehouse

warehouse = Warehouse(Path(sys.argv[1]))
with warehouse.connect() as connection:
    connection.execute("CREATE TABLE t AS FROM range(100000)")
child = os.fork()
with warehouse.connect(read_only=True) as connection:
    assert connection.execute("SELECT count(DISTINCT range) FROM t").fetchone() == (100000,)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_has_an_instance_of_its_own(tmp_path: Path) -> None:
    """It inherits no threads: with its parent's it would hang, or die when it ends."""
    subprocess.run([sys.executable, "-c", _FORK, tmp_path / "w.duckdb"], check=True, timeout=120)
