"""A partition that is one clean file is read in place, and nobody can tell."""

import duckdb
import pytest

from ml_patterns.incremental import computing, loading, manifest
from ml_patterns_tests.incremental.conftest import HOUR, START, Shop, hours, row


@pytest.fixture(autouse=True)
def small_files_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "WORTH_READING_IN_PLACE", 2)


def direct(shop: Shop) -> list[int]:
    chosen = [START + hour * HOUR for hour in range(12)]
    with shop.connect() as connection, computing.scratch(connection) as scratch:
        (loaded,) = loading.load(connection, shop.settings, chosen, scratch)
    return sorted(hours(partition) for partition in loaded.direct)


def test_it_gives_the_same_as_reading_and_deduplicating(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in range(8):
        rows = [row(f"{hour}-{n}", hour + n / 9, amount=n, label=n % 2 == 0) for n in range(9)]
        shop.land(f"{hour}.parquet", rows)
    shop.ingest()
    assert direct(shop) == list(range(8))
    shop.catch_up()
    tables, accounts = (shop.table("aggregates"), shop.table("features")), shop.accounts()
    assert accounts.kept == 72

    monkeypatch.setattr(manifest, "WORTH_READING_IN_PLACE", 10)
    (shop.folder / "warehouse.duckdb").unlink()
    shop.ingest()
    assert direct(shop) == []
    shop.catch_up()
    assert (shop.table("aggregates"), shop.table("features")) == tables
    assert shop.accounts() == accounts


@pytest.mark.parametrize(
    "rows",
    [
        [row("1", 0), row("1", 0, known=2)],
        [row("1", 0), row("2", 1)],
        [row("1", 0), row("2", 0), row("3", 3_000)],
        [row("1", 0), row("2", 0), {**row("3", 0), "id": None}],
    ],
    ids=["an id repeats", "two partitions", "a row from the future", "an invalid row"],
)
def test_what_is_not_one_clean_partition_is_not(shop: Shop, rows: list[dict[str, object]]) -> None:
    shop.land("a.parquet", rows)
    shop.ingest()
    assert direct(shop) == []


def test_a_partition_of_two_files_is_not(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0), row("2", 0)])
    shop.ingest()
    assert direct(shop) == [0]
    shop.land("b.parquet", [row("1", 0, known=3, amount=5), row("3", 0)])
    shop.ingest()
    assert direct(shop) == []
    shop.catch_up()
    assert [line[5] for line in shop.table("features")] == [5, 1, 1]


def test_a_file_that_changes_while_it_is_read_in_place_is_not_built_from(shop: Shop) -> None:
    from ml_patterns.errors import SourceFileError

    shop.land("a.parquet", [row("1", 0), row("2", 0)])
    shop.ingest()

    def rewrite(name: str) -> None:
        if name == "loaded":
            shop.land("a.parquet", [row("1", 0, amount=9), row("2", 0, amount=9)])

    shop.step = rewrite
    with pytest.raises(SourceFileError, match="changed since"):
        shop.build("aggregates")
    shop.step = lambda name: None
    with pytest.raises(duckdb.CatalogException):
        shop.table("aggregates")
    shop.catch_up()
    assert [line[3] for line in shop.table("aggregates")] == [18]
