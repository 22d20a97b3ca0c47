"""Column lineage names what a column is computed from, whatever the SQL looks like."""

from pathlib import Path

import duckdb
import pytest

from ml_patterns.incremental.column_lineage import column_lineage

BUNDLED = Path(__file__).parents[2] / "ml_patterns" / "defs" / "deliveries"

RELATIONS = {
    "events": {
        "parcel_id": "VARCHAR",
        "picked_up_at": "TIMESTAMP",
        "region": "VARCHAR",
        "carrier": "VARCHAR",
        "service": "VARCHAR",
        "distance_km": "INTEGER",
        "weight_g": "INTEGER",
        "price_cents": "INTEGER",
        "promised_hours": "INTEGER",
        "hub_backlog": "INTEGER",
        "delivered_late": "BOOLEAN",
    },
    "aggregates": {
        "partition_start": "TIMESTAMP",
        "region": "VARCHAR",
        "parcels": "BIGINT",
        "distance_km": "BIGINT",
        "backlog_seen": "BIGINT",
        "backlog_peak": "BIGINT",
        "delivered": "BIGINT",
        "delivered_late": "BIGINT",
    },
    "weather": {"date": "DATE", "temperature_max": "DOUBLE", "rain_sum": "DOUBLE"},
}
KEYS = {"partition_start", "picked_up_at", "region", "date", "parcel_id"}
FILLED = {
    "events": "SELECT 'p' || i, TIMESTAMP '2026-06-02 10:00' + INTERVAL (i) MINUTE, "
    "'r' || (i % 2), 'c' || i, 'express', 1 + i, 20 + i, 30 + i, 40 + i, 50 + i, i % 2 = 0 "
    "FROM range(6) AS t(i)",
    "aggregates": "SELECT TIMESTAMP '2026-06-02 10:00' - INTERVAL (1 + i // 2) HOUR, "
    "'r' || (i % 2), 3 + i, 5 + i, 7 + i, 11 + i, 13 + i, i % 5 FROM range(48) AS t(i)",
    "weather": "SELECT DATE '2026-06-02', 20.5, 1.5",
}


def lineage_in_words(sql: str) -> dict[str, str]:
    found = column_lineage(sql, RELATIONS)
    return {name: " ".join(map(".".join, sources)) for name, sources in found.items()}


def result(sql: str, changed: tuple[str, str] | None) -> dict[str, list[object]]:
    """The query's columns over filled tables, one column of which may be scrambled."""
    with duckdb.connect() as connection:
        for relation, columns in RELATIONS.items():
            types = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
            connection.execute(f"CREATE TABLE {relation} ({types})")
            connection.execute(f"INSERT INTO {relation} {FILLED[relation]}")
        if changed:
            relation, column = changed
            new = {"VARCHAR": "'x' || rowid", "BOOLEAN": f"NOT {column}"}
            value = new.get(RELATIONS[relation][column], f"3 * {column} + rowid % 7 + 100")
            connection.execute(f"UPDATE {relation} SET {column} = {value}")
        text = sql.strip().rstrip(";")
        first = "event_id" if "event_id" in text else "region"
        answer = connection.execute(f"SELECT * FROM ({text}\n) ORDER BY {first}")
        names = [item[0] for item in answer.description]
        rows = answer.fetchall()
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}


@pytest.mark.parametrize("file", ["aggregates.sql", "features.sql"])
def test_it_names_exactly_what_changes_a_column(file: str) -> None:
    """Scrambling an input is the oracle: what comes out differently was computed from it."""
    sql = (BUNDLED / file).read_text()
    lineage, before = column_lineage(sql, RELATIONS), result(sql, None)
    for relation, columns in RELATIONS.items():
        for column in columns.keys() - KEYS:
            after = result(sql, (relation, column))
            changed = {name for name, values in after.items() if values != before[name]}
            named = {name for name, sources in lineage.items() if (relation, column) in sources}
            # What only is counted where it is not NULL may name a column without changing by it.
            assert changed <= named, (relation, column)
            assert named - changed <= {"delivered", "delivered_late"}, (relation, column)


def test_keys_are_named_where_an_expression_spells_them_out() -> None:
    found = lineage_in_words((BUNDLED / "features.sql").read_text())
    assert found["hour_of_day"] == "events.picked_up_at"
    assert found["region"] == "events.region"
    assert found["late_share_24h"] == "aggregates.delivered aggregates.delivered_late"
    assert found["rain_sum"] == "weather.rain_sum"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT region, count(*) AS n FROM events GROUP BY ALL",
         {"region": "events.region", "n": ""}),
        ("SELECT * FROM weather", {name: f"weather.{name}" for name in RELATIONS["weather"]}),
        ("SELECT 1 AS one, region FROM events -- the end", {"one": "", "region": "events.region"}),
        ("SELECT weight_g AS only FROM events;", {"only": "events.weight_g"}),
        ("SELECT weight_g AS a, 0 AS b FROM events UNION ALL SELECT 0, price_cents FROM events",
         {"a": "events.weight_g", "b": "events.price_cents"}),
    ],
)  # fmt: skip
def test_other_shapes_of_sql(sql: str, expected: dict[str, str]) -> None:
    assert lineage_in_words(sql) == expected
