"""The bundled pipeline's YAML and SQL, run by DuckDB on the bundled events."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ml_patterns.project import Project
from ml_patterns.sandbox.upstream import archive
from ml_patterns.settings import PipelineSettings

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "ml_patterns/defs/deliveries"
ALSO_KNOWN = ("event_id", "event_time", "region", "label")


@pytest.fixture(scope="module")
def settings() -> PipelineSettings:
    return Project.load(PROJECT).pipeline("deliveries")


@pytest.fixture
def hour(settings: PipelineSettings) -> Iterator[duckdb.DuckDBPyConnection]:
    """`events` of 2026-06-03 14:00, `aggregates` of the day before it, `weather` without rows."""
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE stream AS SELECT * FROM read_parquet('{settings.event_glob}') "
            "WHERE parcel_id IS NOT NULL AND region IS NOT NULL AND year(picked_up_at) = 2026 "
            "QUALIFY row_number() OVER (PARTITION BY parcel_id ORDER BY recorded_at DESC) = 1"
        )
        window = connection.execute(
            "SELECT unnest(range(TIMESTAMP '2026-06-02 14:00', TIMESTAMP '2026-06-03 14:00', "
            "INTERVAL 1 HOUR))"
        ).fetchall()
        for number, (start,) in enumerate(window):
            see(connection, start)
            rows = f"SELECT *, TIMESTAMP '{start}' AS partition_start FROM "
            rows += f"({settings.aggregates_sql})"
            connection.execute(
                f"INSERT INTO aggregates {rows}" if number else f"CREATE TABLE aggregates AS {rows}"
            )
        see(connection, "2026-06-03 14:00")
        connection.execute(
            "CREATE TABLE weather (date DATE, temperature_max DOUBLE, rain_sum DOUBLE)"
        )
        yield connection


def see(connection: duckdb.DuckDBPyConnection, start: object) -> None:
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW events AS SELECT * FROM stream WHERE picked_up_at >= "
        f"TIMESTAMP '{start}' AND picked_up_at < TIMESTAMP '{start}' + INTERVAL 1 HOUR"
    )


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, dict[str, Any]]:
    """Rows by event id."""
    result = connection.execute(sql)
    names = [column[0] for column in result.description or []]
    found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    by_id = {row["event_id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def types(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    found = connection.execute(f"DESCRIBE {sql}").fetchall()
    return {row[0]: row[1] for row in found}


def test_the_yaml_says_what_the_stream_is(settings: PipelineSettings) -> None:
    assert settings.name == "deliveries"
    assert settings.events.grace >= settings.events.label_delay
    assert len(list(PROJECT.glob(settings.events.path))) == 60


def test_aggregates_are_one_exact_row_per_region(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    """No floating point: a recompute that adds in another order gives the same bits."""
    found = types(hour, settings.aggregates_sql)
    assert found.pop("region") == "VARCHAR"
    assert set(found.values()) <= {"BIGINT", "INTEGER"}
    assert set(settings.aggregates.label_columns) < found.keys()
    ((regions, total, parcels, revenue),) = hour.execute(
        "SELECT count(DISTINCT a.region), count(*), sum(parcels), sum(revenue_cents) "
        f"FROM ({settings.aggregates_sql}) AS a"
    ).fetchall()
    expected = hour.execute(
        "SELECT count(DISTINCT region), count(*), sum(price_cents) FROM events"
    ).fetchall()
    assert regions == total
    assert [(regions, parcels, revenue)] == expected


def test_columns_that_need_no_label_ignore_it(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    """Otherwise a column would have to be listed in `aggregates.label_columns`."""
    unlabelled = (
        f"SELECT * EXCLUDE ({', '.join(settings.aggregates.label_columns)}) "
        f"FROM ({settings.aggregates_sql}) ORDER BY region"
    )
    before = hour.execute(unlabelled).fetchall()
    hour.execute("UPDATE stream SET delivered_late = NULL")
    assert hour.execute(unlabelled).fetchall() == before


def test_features_are_one_row_per_event_without_weather_too(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    found = types(hour, settings.features_sql)
    assert tuple(found)[:4] == ALSO_KNOWN
    assert set(found.values()) <= {"VARCHAR", "TIMESTAMP", "BOOLEAN", "DOUBLE", "INTEGER", "BIGINT"}
    features = rows(hour, settings.features_sql)
    assert features.keys() == {
        row[0] for row in hour.execute("SELECT parcel_id FROM events").fetchall()
    }
    assert {row["rain_sum"] for row in features.values()} == {None}
    assert all(row["late_share_24h"] is not None for row in features.values())


def test_features_tell_nothing_of_the_label_or_of_the_rest_of_the_hour(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    before = rows(hour, settings.features_sql)
    one = sorted(before)[0]
    hour.execute(
        "UPDATE stream SET delivered_late = NOT delivered_late, hub_backlog = hub_backlog * 9 "
        "WHERE parcel_id <> ? AND picked_up_at >= TIMESTAMP '2026-06-03 14:00'",
        [one],
    )
    hour.execute("UPDATE stream SET delivered_late = NULL WHERE parcel_id = ?", [one])
    after = rows(hour, settings.features_sql)
    assert after[one] == before[one] | {"label": None}


def test_features_look_back_over_the_window(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    feature = next(
        row for row in rows(hour, settings.features_sql).values() if row["region"] == "eu"
    )
    at = "partition_start >= TIMESTAMP '2026-06-03 11:00'"
    yesterday = "partition_start < TIMESTAMP '2026-06-02 17:00'"
    ((three_hours, next_three, share, this_hour),) = hour.execute(
        f"SELECT sum(parcels) FILTER ({at}), sum(parcels) FILTER ({yesterday}), "
        "sum(delivered_late) / sum(delivered), "
        "sum(parcels) FILTER (partition_start = TIMESTAMP '2026-06-02 14:00') "
        "FROM aggregates WHERE region = 'eu'"
    ).fetchall()
    assert feature["parcels_3h"] == three_hours
    assert feature["rush_ahead"] == next_three / three_hours
    assert feature["late_share_24h"] == share
    assert feature["parcels_this_hour_yesterday"] == this_hour


def test_the_first_hour_of_the_stream_has_features(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    hour.execute("DELETE FROM aggregates")
    features = rows(hour, settings.features_sql)
    assert len(features) > 0
    assert {row["parcels_24h"] for row in features.values()} == {None}


def test_weather_is_read_from_the_upstream_answer(
    settings: PipelineSettings, hour: duckdb.DuckDBPyConnection
) -> None:
    (weather,) = settings.external
    answer = archive(date(2026, 6, 3), date(2026, 6, 3), ["temperature_2m_max", "rain_sum"])
    hour.execute("CREATE TABLE response AS SELECT ?::JSON AS body", [json.dumps(answer)])
    assert types(hour, weather.select) == types(hour, "FROM weather")
    hour.execute(f"INSERT INTO weather {weather.select}")
    expected = answer["daily"]["temperature_2m_max"][0]
    features = rows(hour, settings.features_sql)
    assert {row["temperature_max"] for row in features.values()} == {expected}
