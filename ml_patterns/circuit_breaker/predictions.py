"""The append-only table of predictions.

Belongs here: appending answers, questions about the newest ones. Does not: what is asked for
(`asking.py`), predicting (`client.py`), how good it was (`quality.py`), Dagster (`assets.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb

from ml_patterns.storage.sql import quoted

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {
    "partition_start": "TIMESTAMP",
    "event_id": "VARCHAR",
    "made_at": "TIMESTAMP",
    "region": "VARCHAR",
    "prediction": "DOUBLE",
    "source": "VARCHAR",
    "age_s": "DOUBLE",
    "model_version": "VARCHAR",
    "reason": "VARCHAR",
    "attempts": "BIGINT",
    "features_hash": "VARCHAR",
    "label_known": "BOOLEAN",
}


def has_predictions(connection: duckdb.DuckDBPyConnection, pipeline: str) -> bool:
    """Whether anything was ever predicted."""
    return bool(
        connection.execute(
            "SELECT 1 FROM information_schema.tables "
            "WHERE table_schema = ? AND table_name = 'predictions'",
            [pipeline],
        ).fetchall()
    )


def base_rates(connection: duckdb.DuckDBPyConnection, pipeline: str) -> dict[str, float]:
    """Share of positives among each region's labelled rows."""
    rows = connection.execute(
        f"SELECT region, avg(CAST(label AS INTEGER)) FROM {quoted(pipeline)}.event_features "
        "WHERE label IS NOT NULL GROUP BY region"
    ).fetchall()
    return dict(rows)


def ensure_table(connection: duckdb.DuckDBPyConnection, pipeline: str) -> None:
    """Creates the table where there is none, and the columns that an older one lacks."""
    schema = quoted(pipeline)
    types = ", ".join(f"{name} {type_}" for name, type_ in _TYPES.items())
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.predictions ({types})")
    for name in ("features_hash", "label_known"):
        connection.execute(
            f"ALTER TABLE {schema}.predictions ADD COLUMN IF NOT EXISTS {name} {_TYPES[name]}"
        )


def append(connection: duckdb.DuckDBPyConnection, pipeline: str, answers: "pd.DataFrame") -> None:
    """Adds answers, in one transaction; nothing that was answered before is touched.

    Args:
        answers: a column for each of the table's; times are UTC without a zone.
    """
    columns = ", ".join(f"CAST({name} AS {type_}) AS {name}" for name, type_ in _TYPES.items())
    connection.execute("BEGIN")
    try:
        ensure_table(connection, pipeline)
        if len(answers):
            connection.register("incoming", answers[list(_TYPES)])
            connection.execute(
                f"INSERT INTO {quoted(pipeline)}.predictions BY NAME SELECT {columns} FROM incoming"
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def unanswered_rows(
    connection: duckdb.DuckDBPyConnection, pipeline: str, starts: Sequence[datetime]
) -> int:
    """Rows of these partitions that no prediction answers."""
    found = connection.execute(
        f"SELECT count(*) FROM {quoted(pipeline)}.event_features AS features "
        f"ANTI JOIN {quoted(pipeline)}.predictions AS predictions "
        "USING (partition_start, event_id) WHERE list_contains(?, partition_start)",
        [[naive(start) for start in starts]],
    ).fetchone()
    return int(found[0]) if found else 0


def fallbacks(
    connection: duckdb.DuckDBPyConnection, pipeline: str, starts: Sequence[datetime]
) -> tuple[int, int]:
    """Of the newest answers for rows that have a model: (fallbacks, rows)."""
    found = connection.execute(
        f"""
        WITH newest AS (
            SELECT source, reason FROM {quoted(pipeline)}.predictions
            WHERE list_contains(?, partition_start)
            QUALIFY row_number() OVER (
                PARTITION BY partition_start, event_id ORDER BY made_at DESC
            ) = 1
        )
        SELECT count(*) FILTER (WHERE source <> 'live'), count(*)
        FROM newest WHERE reason <> 'no champion'
        """,
        [[naive(start) for start in starts]],
    ).fetchone()
    return (int(found[0]), int(found[1])) if found else (0, 0)


def oldest_answer(
    connection: duckdb.DuckDBPyConnection, pipeline: str, starts: Sequence[datetime]
) -> float:
    """Age in seconds of the oldest among the newest answers; 0 if all are live."""
    found = connection.execute(
        f"""
        WITH newest AS (
            SELECT age_s FROM {quoted(pipeline)}.predictions
            WHERE list_contains(?, partition_start)
            QUALIFY row_number() OVER (
                PARTITION BY partition_start, event_id ORDER BY made_at DESC
            ) = 1
        )
        SELECT coalesce(max(age_s), 0) FROM newest
        """,
        [[naive(start) for start in starts]],
    ).fetchone()
    return float(found[0]) if found else 0.0


def predicted_partitions(connection: duckdb.DuckDBPyConnection, pipeline: str) -> list[datetime]:
    """Starts (UTC) of all partitions with predictions."""
    rows = connection.execute(
        f"SELECT DISTINCT partition_start FROM {quoted(pipeline)}.predictions ORDER BY 1"
    ).fetchall()
    return [start.replace(tzinfo=UTC) for (start,) in rows]


def naive(moment: datetime) -> datetime:
    """As the warehouse writes it: UTC without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
