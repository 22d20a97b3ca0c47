"""SIGKILL at every boundary, then run again: the same result."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from ml_patterns.incremental import sensors
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.incremental.conftest import Shop, make_settings, row

BOUNDARIES = {
    "listed", "manifest", "loaded", "computed", "claimed", "deleted", "inserted", "checked",
    "before commit", "committed",
}  # fmt: skip
STATE = (
    "SELECT layer, partition_start, events, code, upstream FROM shop.partition_state ORDER BY ALL",
    "SELECT path, partition_start, class, rows, fingerprint FROM shop.entries ORDER BY ALL",
    "SELECT * FROM shop.event_aggregates ORDER BY ALL",
    "SELECT * FROM shop.event_features ORDER BY ALL",
)


def prepared(folder: Path) -> Shop:
    """Two hours are built; then a late row, a correction and a new hour have landed."""
    shop = Shop(folder, make_settings(folder))
    shop.land("a.parquet", [row("1", 0, known=0), row("1", 0, known=1, label=True), row("2", 1)])
    shop.land("b.parquet", [row("3", 1, amount=7)])
    shop.catch_up()
    shop.land("b.parquet", [row("3", 1, amount=9)])
    shop.land("c.parquet", [row("4", 0.5), row("5", 2)])
    return shop


def run(folder: Path, deadly: int, at_once: int) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "ml_patterns_tests.incremental.worker", folder, "catch-up",
         str(deadly), str(at_once)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout.splitlines()


def state(shop: Shop) -> list[list[tuple[object, ...]]]:
    return [shop.query(sql) for sql in STATE]


def put_back(start: Path, folder: Path) -> None:
    """The same files, inode and modification time included, and a copy of the warehouse."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start / "landed", folder / "landed", copy_function=os.link)
    shutil.copy(start / "warehouse.duckdb", folder)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 32])
def test_a_run_killed_at_any_boundary_and_run_again_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_once: int
) -> None:
    """One partition in each transaction, computed by several threads; and all in one."""
    shop = prepared(tmp_path / "shop")
    start = (tmp_path / "shop").rename(tmp_path / "start")
    put_back(start, shop.folder)
    code, boundaries = run(shop.folder, 0, at_once)
    assert code == 0
    assert set(boundaries) == BOUNDARIES
    expected = state(shop)
    assert [line[5] for line in expected[3]] == [1, 1, 1, 9, 1]
    for number, name in enumerate(boundaries, 1):
        put_back(start, shop.folder)
        assert run(shop.folder, number, at_once) == (-signal.SIGKILL, boundaries[:number])
        shop.catch_up()
        assert state(shop) == expected, f"killed at {name}"
    with capsys.disabled():
        kinds = ", ".join(f"{name} {n}" for name, n in Counter(boundaries).items())
        print(
            f"\n{len(boundaries)} crash points with {at_once} partitions at once, "
            f"same result after each: {kinds}"
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_dagster_killed_after_our_commit_is_told_without_computing_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real `dagster` process: committed, and killed before the event is written."""
    shop.land("a.parquet", [row("1", 0), row("2", 1)])
    shop.ingest()
    home = shop.folder / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("CRASHING_SHOP", str(shop.folder))

    def materialize(at: str) -> int:
        monkeypatch.setenv("CRASHING_AT", at)
        done = subprocess.run(
            [sys.executable, "-m", "dagster", "asset", "materialize",
             "-m", "ml_patterns_tests.incremental.crashing", "--select", "shop/event_aggregates",
             "--partition-range", "2026-06-01-00:00...2026-06-01-01:00"],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    assert materialize("before commit") == -signal.SIGKILL
    assert sorted(shop.due_hours("aggregates")) == [0, 1], "nothing was committed"
    assert materialize("committed") == -signal.SIGKILL
    assert shop.due("aggregates") == []
    aggregates = dg.AssetKey(["shop", "event_aggregates"])
    warehouse = WarehouseResource(database=str(shop.warehouse.path))
    operational = OperationalResource(url=f"sqlite:///{shop.folder / 'state.sqlite'}")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_materialized_partitions(aggregates) == set()
        sensors.request_due(instance, shop.settings, warehouse, operational)
        assert len(instance.get_materialized_partitions(aggregates)) == 2
    generations = "SELECT generation FROM shop.partition_state WHERE layer = 'aggregates'"
    assert shop.query(generations) == [(1,), (1,)], "told, not computed again"
    assert materialize("never") == 0
    assert shop.query(generations) == [(2,), (2,)]
