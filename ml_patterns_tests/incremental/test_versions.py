"""The newest version of an event wins, wherever and in whatever order versions arrive."""

from itertools import islice, permutations
from pathlib import Path

import pytest

from ml_patterns_tests.incremental.conftest import COLUMNS, START, Row, Shop, make_settings, row

VERSIONS = [row("1", 0, known=1, amount=10), row("1", 0, known=3, amount=30),
            row("1", 0, known=2, amount=20), row("1", 0, known=3, amount=30)]  # fmt: skip


def built(folder: Path, files: list[list[Row]], *, one_by_one: bool = False) -> Shop:
    shop = Shop(folder, make_settings(folder))
    for number, rows in enumerate(files):
        shop.land(f"{number}.parquet", rows)
        if one_by_one:
            shop.catch_up()
    shop.catch_up()
    return shop


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_newest_version_wins_in_every_order_of_arrival(
    tmp_path: Path, one_by_one: bool
) -> None:
    results = set()
    for number, order in enumerate(islice(permutations(VERSIONS), 0, 24, 5)):
        shop = built(tmp_path / str(number), [[v] for v in order], one_by_one=one_by_one)
        results.add(str(shop.table("features")))
        found = shop.accounts()
        assert (found.accepted, found.kept, found.superseded, found.duplicate) == (4, 1, 2, 1)
    assert len(results) == 1
    assert shop.table("features")[0][5] == 30


def test_a_version_without_a_time_is_older_than_any_other(tmp_path: Path) -> None:
    unknown = {**row("1", 0, amount=99), "known": None}
    shop = built(tmp_path, [[row("1", 0, known=1, amount=10)], [unknown]])
    assert [entry[5] for entry in shop.table("features")] == [10]


def test_a_tie_is_broken_by_content_and_not_by_arrival(tmp_path: Path) -> None:
    """The hardest pairs: nothing against the text NULL, and quotes that look like borders."""
    columns = {**COLUMNS, "note": "VARCHAR"}
    rows = [
        {**row("1", 0), "note": None}, {**row("1", 0), "note": "NULL"},
        {**row("2", 0), "note": "a', b"}, {**row("2", 0), "note": "a"},
        {**row("3", 0, region="a, 1"), "note": ""}, {**row("3", 0, region="a"), "note": "1, "},
        {**row("4", 0), "note": ""}, {**row("4", 0), "note": None},
    ]  # fmt: skip
    features = (
        'SELECT id AS event_id, "at" AS event_time, region, label, '
        "coalesce(note, '<nothing>') AS note FROM events"
    )
    results = []
    for flip in (False, True):
        shop = Shop(tmp_path / str(flip), make_settings(tmp_path / str(flip), features=features))
        for number, entry in enumerate(reversed(rows) if flip else rows):
            shop.land(f"{number}.parquet", [entry], columns)
        shop.catch_up()
        found = shop.accounts()
        assert (found.kept, found.superseded, found.duplicate) == (4, 4, 0)
        results.append(shop.table("features"))
    assert results[0] == results[1]


def test_a_column_that_only_later_files_have_is_null_in_earlier_ones(shop: Shop) -> None:
    few = {name: kind for name, kind in COLUMNS.items() if name != "label"}
    shop.land("a.parquet", [row("1", 0)], few)
    shop.change(
        aggregates="SELECT region, count(*) AS events FROM events GROUP BY region",
        features='SELECT id AS event_id, "at" AS event_time, region, amount > 0 AS label '
        "FROM events",
        label_columns=[],
    )
    shop.catch_up()
    shop.land("b.parquet", [row("2", 0, label=True)])
    shop.change()
    shop.catch_up()
    assert [(r[1], r[4]) for r in shop.table("features")] == [("1", None), ("2", True)]


def test_the_same_id_in_two_partitions_is_two_events_and_is_told(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0), row("1", 1)])
    shop.catch_up()
    assert [entry[0] for entry in shop.table("features")] == [START, START.replace(hour=1)]
