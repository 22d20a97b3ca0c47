"""Parquet, CSV, JSON lines, gz, Hive folders, and files that are not on this machine."""

import json

import fsspec
import pandas as pd
import pytest

from ml_patterns.incremental import audit
from ml_patterns_tests.incremental.conftest import (
    COLUMNS,
    FEATURES,
    START,
    Shop,
    make_settings,
    row,
    write,
)

ROWS = [row("1", 0, amount=5, label=True), row("2", 1, amount=None, label=None, region="us")]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.csv.gz", "a.jsonl"])
def test_every_format_gives_the_same_tables(shop: Shop, name: str) -> None:
    features = (
        'SELECT id AS event_id, "at" AS event_time, region, label::BOOLEAN AS label, '
        "amount::BIGINT AS amount FROM events"
    )
    shop.change(features=features)
    shop.land(name, ROWS)
    shop.catch_up()
    assert [r[1:] for r in shop.table("features")] == [
        ("1", ROWS[0]["at"], "eu", True, 5),
        ("2", ROWS[1]["at"], "us", None, None),
    ]


def test_formats_can_be_mixed(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.land("b.csv", [row("2", 0)])
    shop.land("c.csv.gz", [row("3", 0)])
    shop.land("d.jsonl", [row("4", 0)])
    shop.catch_up()
    assert [r[1] for r in shop.table("features")] == ["1", "2", "3", "4"]
    found = shop.accounts()
    assert (found.delivered, found.kept, found.superseded) == (4, 4, 0)


def test_the_same_row_in_another_format_is_a_duplicate(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0, label=True)])
    shop.land("b.csv", [row("1", 0, label=True)])
    shop.catch_up()
    assert shop.accounts().duplicate == 1


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_id_that_looks_like_a_number_is_text(shop: Shop, ending: str) -> None:
    (shop.landed / "a.csv").write_text(
        f"id,at,known,region,amount,label\n007,{START},{START},1,1,\n"
    )
    shop.land(f"b.{ending}", [row("x7", 0)])
    shop.catch_up()
    assert [(r[1], r[3]) for r in shop.table("features")] == [("007", "1"), ("x7", "eu")]


def test_a_hive_folder_is_a_column(shop: Shop) -> None:
    columns = {name: kind for name, kind in COLUMNS.items() if name != "region"}
    shop.land("region=eu/day=2026-06-01/a.parquet", [row("1", 0)], columns)
    shop.land("region=17/day=2026-06-01/a.parquet", [row("2", 0)], columns)
    shop.land("region=us/day=2026-06-02/a.csv", [row("3", 24)], columns)
    shop.catch_up()
    assert [(r[1], r[3]) for r in shop.table("features")] == [("1", "eu"), ("2", "17"), ("3", "us")]


def test_files_can_lie_in_another_store(shop: Shop) -> None:
    """Through fsspec, as S3, GCS and Azure are reached; here: a store in memory."""
    store = fsspec.filesystem("memory")
    store.mkdirs("/bucket", exist_ok=True)
    shop.settings = make_settings(shop.folder, path="memory://bucket/*.parquet")

    def upload(name: str, hour: float) -> None:
        local = write(shop.folder / name, [row(name, hour)])
        store.pipe_file(f"/bucket/{name}", local.read_bytes())

    try:
        upload("a.parquet", 0)
        upload("b.parquet", 1)
        shop.catch_up()
        assert [r[1] for r in shop.table("features")] == ["a.parquet", "b.parquet"]
        upload("b.parquet", 2)
        shop.ingest()
        assert shop.due_hours("aggregates") == {1: "corrected file", 2: "new"}
        shop.catch_up()
        store.rm("/bucket/a.parquet")
        (missing,) = shop.ingest().missing
        assert missing.endswith("bucket/a.parquet")
    finally:
        store.rm("/bucket", recursive=True)


def test_a_store_that_fails_for_a_moment_is_asked_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file did not change meanwhile, so that nothing but the ledger would ask for it."""
    store = fsspec.filesystem("memory")
    store.mkdirs("/bucket", exist_ok=True)
    shop.settings = make_settings(shop.folder, path="memory://bucket/*.parquet")
    local = write(shop.folder / "a.parquet", [row("1", 0)])
    store.pipe_file("/bucket/a.parquet", local.read_bytes())
    opened = type(store)._open

    def reset(*_: object, **__: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    try:
        monkeypatch.setattr(type(store), "_open", reset)
        (told,) = shop.ingest().unreadable
        assert "Connection reset by peer); it is tried again" in told.error
        monkeypatch.setattr(type(store), "_open", opened)
        assert shop.ingest().unreadable == ()
        shop.catch_up()
        assert [r[1] for r in shop.table("features")] == ["1"]
    finally:
        store.rm("/bucket", recursive=True)


def test_every_format_and_hive_folders_can_lie_in_another_store(shop: Shop) -> None:
    store = fsspec.filesystem("memory")
    shop.settings = make_settings(shop.folder, path="memory://bucket/**/*.*")
    columns = {name: kind for name, kind in COLUMNS.items() if name != "region"}
    try:
        for number, name in enumerate(["a.parquet", "b.csv", "c.csv.gz", "d.jsonl"]):
            local = write(shop.folder / name, [row(name, number)], columns)
            store.pipe_file(f"/bucket/region=r{number}/{name}", local.read_bytes())
        shop.catch_up()
        assert [(r[1], r[3]) for r in shop.table("features")] == [
            ("a.parquet", "r0"), ("b.csv", "r1"), ("c.csv.gz", "r2"), ("d.jsonl", "r3"),
        ]  # fmt: skip
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("together", [True, False])
def test_a_folder_that_is_a_column_and_a_file_that_has_it_lose_no_row(
    shop: Shop, together: bool
) -> None:
    """The files have the same columns; DuckDB alone would drop the folder's for all of them."""
    flat = {name: kind for name, kind in COLUMNS.items() if name != "region"}
    shop.land("region=eu/a.parquet", [row("1", 0)], flat)
    if not together:
        shop.catch_up()
    shop.land("b.parquet", [row("2", 0, region="us")], {**flat, "region": "VARCHAR"})
    shop.catch_up()
    assert [(r[1], r[3]) for r in shop.table("features")] == [("1", "eu"), ("2", "us")]
    assert (shop.accounts().accepted, shop.accounts().kept) == (2, 2)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_column_gets_its_type_from_the_first_value(shop: Shop, ending: str) -> None:
    """Labels come later than the events: the first file has a column of them, and none in it."""
    shop.change(
        features=FEATURES.replace("e.amount,", "e.amount, CAST(e.amount AS BIGINT) AS more,")
    )
    text = dict.fromkeys(COLUMNS, "VARCHAR")
    rows = [row("1", 0, amount=None), row("2", 0, amount=None)]
    if ending == "parquet":
        pd.DataFrame(rows).to_parquet(shop.landed / "a.parquet")
    else:
        shop.land(f"a.{ending}", rows, text)
    shop.catch_up()
    query = "SELECT event_id, label, amount, more FROM shop.event_features ORDER BY event_id"
    assert shop.query(query) == [("1", None, None, None), ("2", None, None, None)]
    shop.land(f"b.{ending}", [row("3", 1, amount=5, label=True)])
    assert shop.ingest().unreadable == ()
    shop.catch_up()
    assert shop.query(query) == [
        ("1", None, None, None), ("2", None, None, None), ("3", True, 5, 5),
    ]  # fmt: skip
    assert shop.query(
        "SELECT events, amount, labelled, positives FROM shop.event_aggregates ORDER BY ALL"
    ) == [(1, 5, 1, 1), (2, None, 0, 0)]
    with shop.connect() as connection:
        assert audit.recompute_differences(connection, shop.settings, "aggregates", [START]) == []


def test_json_lines_are_looked_at_to_their_end(shop: Shop) -> None:
    """DuckDB by itself takes the types from a sample of 20,480 rows."""
    many = [{"id": str(n), "at": str(START), "known": str(START), "region": "eu", "amount": 1}
            for n in range(25_000)]  # fmt: skip
    last = {**many[0], "id": "last", "amount": 1.5, "label": True}
    (shop.landed / "a.jsonl").write_text("\n".join(map(json.dumps, [*many, last])))
    shop.change(aggregates="SELECT region, count(*) AS events FROM events GROUP BY region",
                features="SELECT id AS event_id, \"at\" AS event_time, region, label, amount "
                "FROM events", label_columns=[])  # fmt: skip
    shop.catch_up()
    found = shop.query("SELECT amount, label FROM shop.event_features WHERE event_id = 'last'")
    assert found == [(1.5, True)]
