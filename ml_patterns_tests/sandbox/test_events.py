"""The bundled stream: the same bytes every time, and every kind of dirt that real streams have."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from ml_patterns.sandbox import events
from ml_patterns.sandbox.parcels import REGIONS

COMMITTED = Path(__file__).parents[2] / "data/deliveries/events"
FIVE_DAYS = date(2026, 6, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    events.write_events(folder)
    return folder


@pytest.fixture(scope="module")
def stream(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """`landed`: every row as it first landed, with its file and the delay of its record."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE landed AS SELECT *, recorded_at - picked_up_at AS delay "
            f"FROM read_parquet('{folder}/*.parquet', filename = true)"
        )
        connection.execute("ALTER TABLE landed RENAME filename TO file")
        yield connection


def count(stream: duckdb.DuckDBPyConnection, where: str) -> int:
    return int(stream.execute(f"SELECT count(*) FROM landed WHERE {where}").fetchall()[0][0])


def contents(path: Path) -> pd.DataFrame:
    return duckdb.execute("SELECT * FROM read_parquet(?)", [str(path)]).df()


def test_another_process_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "ml_patterns.sandbox.events", str(tmp_path)],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},
    )
    assert [path.name for path in sorted(tmp_path.iterdir())] == events.file_names()
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_the_committed_files_are_what_the_generator_writes(folder: Path) -> None:
    """Compared by content: the bytes also depend on the version of DuckDB that wrote them."""
    assert sorted(path.name for path in COMMITTED.iterdir()) == events.file_names()
    for name in events.file_names():
        pd.testing.assert_frame_equal(contents(COMMITTED / name), contents(folder / name))


def test_the_committed_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) <= 5_000_000


def test_files_hold_what_was_recorded_in_three_hours(stream: duckdb.DuckDBPyConnection) -> None:
    """All but the duplicates, which come again in the next file."""
    landed = "strptime(parse_filename(file), 'parcels-%Y-%m-%dT%H.parquet')"
    age = f"{landed} - recorded_at"
    assert count(stream, f"{age} <= INTERVAL 0 HOURS OR {age} > INTERVAL 6 HOURS") == 0
    assert count(stream, f"{age} > INTERVAL 3 HOURS") == events.DUPLICATE_ROWS


def test_the_first_five_days_are_forty_files() -> None:
    names = events.files_until(FIVE_DAYS)
    assert len(names) == 40
    assert names[-1] == "parcels-2026-06-06T00.parquet"
    assert names == events.file_names()[:40]
    assert events.REDELIVERED_FILE in names
    assert events.files_until(date(2026, 6, 8)) == events.file_names()


def test_every_kind_of_dirt_is_there(stream: duckdb.DuckDBPyConnection) -> None:
    ((distinct,),) = stream.execute(
        "SELECT count(*) FROM (SELECT DISTINCT * EXCLUDE (file) FROM landed)"
    ).fetchall()
    usable = "parcel_id IS NOT NULL AND region IS NOT NULL AND year(picked_up_at) = 2026"
    assert {
        "without id": count(stream, "parcel_id IS NULL"),
        "without region": count(stream, "region IS NULL"),
        "without time": count(stream, "picked_up_at IS NULL"),
        "from the future": count(stream, "year(picked_up_at) = 2099"),
        "beyond the grace period": count(stream, f"{usable} AND delay > INTERVAL 24 HOURS"),
        "between": count(stream, f"{usable} AND delay BETWEEN INTERVAL 12 HOURS AND '24 HOURS'"),
        "exact duplicates": count(stream, "TRUE") - distinct,
    } == {
        "without id": 25,
        "without region": 30,
        "without time": 20,
        "from the future": 40,
        "beyond the grace period": 90,
        "between": 0,
        "exact duplicates": 320,
    }


def test_rows_hours_late_are_within_the_grace_period(stream: duckdb.DuckDBPyConnection) -> None:
    first_heard = stream.execute(
        "SELECT min(delay) FROM landed WHERE year(picked_up_at) = 2026 AND region IS NOT NULL "
        "AND parcel_id LIKE 'P%' GROUP BY parcel_id HAVING min(delay) < INTERVAL 24 HOURS"
    ).fetchall()
    late = [delay for (delay,) in first_heard if delay >= timedelta(hours=2)]
    assert len(late) == events.LATE_ROWS == 600
    assert max(late) < events.LABEL_DELAY


def test_versions_tell_the_label_later_and_correct_values(
    stream: duckdb.DuckDBPyConnection,
) -> None:
    """Once without a label, once with it, and for some once more with another weight."""
    histories = stream.execute(
        "SELECT parcel_id, count(DISTINCT recorded_at) AS versions, "
        "count(DISTINCT weight_g) AS weights, "
        "max(recorded_at) FILTER (delivered_late IS NULL) "
        "< min(recorded_at) FILTER (delivered_late IS NOT NULL) AS in_order "
        "FROM landed WHERE parcel_id LIKE 'P%' AND region IS NOT NULL "
        "AND delay < INTERVAL 24 HOURS GROUP BY parcel_id"
    ).df()
    corrected = histories[histories["versions"] == 3]
    assert len(corrected) == events.CORRECTED_ROWS == 260
    assert (corrected["weights"] == 2).all()
    assert (histories["versions"] == 2).sum() > 37_000
    # Only a parcel whose delivery the wrong file forgot has a single version.
    assert (histories["versions"] == 1).sum() == events.FORGOTTEN_ROWS
    assert histories.loc[histories["versions"] > 1, "in_order"].all()


def test_regions_are_eight_and_one_is_too_small(stream: duckdb.DuckDBPyConnection) -> None:
    sizes = dict(
        stream.execute(
            "SELECT region, count(DISTINCT parcel_id) FROM landed "
            "WHERE region IS NOT NULL AND parcel_id LIKE 'P%' GROUP BY region"
        ).fetchall()
    )
    assert sizes.keys() == REGIONS.keys() >= {"us_west", "us_east", "eu"}
    assert sizes.pop("oceania") == 150
    assert min(sizes.values()) > 3000


def test_a_second_listing_after_five_days_finds_rows_too_late_and_partitions_to_reopen(
    stream: duckdb.DuckDBPyConnection,
) -> None:
    """What the demo shows: the watermark is then twelve hours behind the end of the fifth day."""
    early = events.files_until(FIVE_DAYS)
    ((newest,),) = stream.execute(
        "SELECT max(picked_up_at) FROM landed "
        "WHERE list_contains(?, parse_filename(file)) AND year(picked_up_at) = 2026",
        [early],
    ).fetchall()
    counts = stream.execute(
        "SELECT count(*) FILTER (ends <= $watermark), "
        "count(*) FILTER (ends > $watermark AND picked_up_at < TIMESTAMP '2026-06-06') "
        "FROM (SELECT *, date_trunc('hour', picked_up_at) + INTERVAL 1 HOUR AS ends FROM landed) "
        "WHERE NOT list_contains($early, parse_filename(file)) AND year(picked_up_at) = 2026 "
        "AND parcel_id IS NOT NULL AND region IS NOT NULL",
        {"watermark": newest - timedelta(hours=12), "early": early},
    ).fetchall()
    assert counts == [(25, 458)]


def test_a_redelivered_file_is_corrected_under_its_name(folder: Path, tmp_path: Path) -> None:
    name = events.REDELIVERED_FILE
    wrong = contents(Path(shutil.copy(folder / name, tmp_path)))
    right = contents(events.redeliver(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    key = ["parcel_id", "recorded_at"]
    both = wrong.merge(right, on=key, how="outer", suffixes=("_wrong", "_right"), indicator=True)
    both = both[both["parcel_id"].notna()]
    sides = both["_merge"].value_counts()
    assert sides["left_only"] == events.TEST_ROWS
    assert sides["right_only"] == events.FORGOTTEN_ROWS
    changed = both[both["price_cents_wrong"] == 10 * both["price_cents_right"]]
    assert len(changed) == events.MISPRICED_ROWS
    once = (tmp_path / name).read_bytes()
    events.redeliver(tmp_path)
    assert (tmp_path / name).read_bytes() == once
