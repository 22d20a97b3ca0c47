"""Any number of processes at once, and one that does not let go."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from ml_patterns.errors import ConflictError, WarehouseBusyError
from ml_patterns.incremental import build
from ml_patterns.incremental.plan import LAYERS
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.incremental.conftest import HOUR, START, Shop, hours, row

PROCESSES, ROUNDS = 8, 3


@pytest.mark.slow
def test_eight_processes_and_a_reader_lose_and_double_nothing(shop: Shop) -> None:
    shop.change(grace="12h")
    shop.land("first.parquet", [row("first", 0)])
    shop.catch_up()
    arguments = ["ml_patterns_tests.incremental.worker", shop.folder, "compete", str(ROUNDS), "4"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    over, looks = threading.Event(), []

    def read() -> None:
        """Whatever moment it meets: every partition is whole, ledger and table agree."""
        while not over.is_set():
            with shop.warehouse.connect(read_only=True) as connection:
                looks.append(
                    connection.execute(
                        "SELECT kept, (SELECT count(*) FROM shop.event_features f "
                        "WHERE f.partition_start = c.partition_start) FROM shop.run_cost c "
                        "JOIN shop.partition_state USING (layer, partition_start, generation) "
                        "WHERE layer = 'features'"
                    ).fetchall()
                )

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        results = [worker.communicate(timeout=150) for worker in workers]
        over.set()
        reader.result()
    assert [worker.returncode for worker in workers] == [0] * PROCESSES, results
    assert looks
    assert all(kept == held for look in looks for kept, held in look)

    shop.catch_up()
    events = PROCESSES * ROUNDS * 6 + 1
    assert shop.query("SELECT count(*), count(DISTINCT event_id) FROM shop.event_features") == [
        (events, events)
    ]
    assert shop.query("SELECT sum(events)::BIGINT FROM shop.event_aggregates") == [(events,)]
    found = shop.accounts()
    assert (found.delivered, found.accepted, found.kept) == (events, events, events)


@pytest.mark.parametrize("layer", LAYERS)
def test_of_two_that_build_the_same_partition_one_wins_and_the_other_does_no_harm(
    shop: Shop, layer: str
) -> None:
    """Two connections of one process: the only way to hold the file at the same time."""
    shop.land("a.parquet", [row("1", 0)])
    shop.catch_up()
    before = shop.table(layer)  # type: ignore[arg-type]
    with shop.connect() as one:
        other = one.cursor()

        def meanwhile(name: str) -> None:
            if name == "computed":
                list(build.build(other, shop.settings, layer, [START], shop.clock))  # type: ignore[arg-type]

        with pytest.raises(ConflictError, match="theirs stands"):
            list(build.build(one, shop.settings, layer, [START], shop.clock, meanwhile))  # type: ignore[arg-type]
        assert one.execute("SELECT 1").fetchone() == (1,), "the transaction is over"
    assert shop.table(layer) == before  # type: ignore[arg-type]
    assert shop.query(
        "SELECT generation FROM shop.partition_state "
        f"WHERE layer = '{layer}' AND partition_start = '{START}'"
    ) == [(2,)]


def test_a_conflict_that_only_the_database_sees_is_a_conflict_too(shop: Shop) -> None:
    """The other one has claimed the row and not committed yet."""
    shop.land("a.parquet", [row("1", 0), row("2", 1)])
    shop.catch_up()
    with shop.connect() as one:
        other = one.cursor()

        def meanwhile(name: str) -> None:
            if name == "claimed":
                with pytest.raises(ConflictError, match="theirs stands"):
                    list(build.build(other, shop.settings, "aggregates", [START], shop.clock))

        (done,) = build.build(one, shop.settings, "aggregates", [START], shop.clock, meanwhile)
    assert done.generation == 2


@pytest.mark.parametrize("moment", ["computed", "claimed", "inserted"])
def test_a_partition_lost_amid_a_batch_costs_no_other_partition(shop: Shop, moment: str) -> None:
    """The batch is undone and committed one by one up to the lost one; the next run does the rest.

    The other is meant to come between: while ours holds no row of the lost partition yet, it wins;
    afterwards it is the one that loses, and the batch stands.
    """
    shop.land("a.parquet", [row(str(hour), hour) for hour in range(4)])
    shop.ingest()
    chosen, lost = [START + hour * HOUR for hour in range(4)], START + 2 * HOUR
    done, others = [], []
    with shop.connect() as one, shop.connect() as other:

        def meanwhile(name: str) -> None:
            if name == moment and not others:
                others.append("tried")
                try:
                    others.extend(
                        build.build(other, shop.settings, "aggregates", [lost], shop.clock)
                    )
                except ConflictError:
                    others.append("lost")

        ours = build.build(one, shop.settings, "aggregates", chosen, shop.clock, meanwhile)
        if moment == "computed":
            with pytest.raises(ConflictError, match="aggregates 2026-06-01-02:00 of shop was"):
                done.extend(ours)
            assert [hours(one.partition) for one in done] == [0, 1]
        else:
            done.extend(ours)
            assert others == ["tried", "lost"]
            assert [hours(one.partition) for one in done] == [0, 1, 2, 3]
    shop.catch_up()
    assert (
        shop.query("SELECT generation FROM shop.partition_state WHERE layer = 'aggregates'")
        == [(1,)] * 4
    )
    assert [line[2] for line in shop.table("aggregates")] == [1, 1, 1, 1]


def test_a_process_that_holds_the_file_is_waited_for_and_then_named(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.catch_up()
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); "
         "sys.stdin.read()", shop.warehouse.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == "held\n"
    clock = iter(range(1_000))
    pauses: list[float] = []
    impatient = Warehouse(
        shop.warehouse.path, timedelta(seconds=20), pauses.append, lambda: float(next(clock))
    )
    named = rf"held by process {holder.pid} \(.*python"
    with pytest.raises(WarehouseBusyError, match=named), impatient.connect():
        pass
    assert len(pauses) == 19
    assert max(pauses) <= 0.5

    def let_go() -> None:
        holder.stdin.close()  # type: ignore[union-attr]
        holder.wait()

    patient = Warehouse(shop.warehouse.path, sleep=lambda seconds: let_go())
    with patient.connect() as connection:
        assert connection.execute("SELECT count(*) FROM shop.listings").fetchone() == (1,)
    holder.stdout.close()
