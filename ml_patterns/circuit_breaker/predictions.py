"""The append-only table of predictions, and how good they turned out to be.

Belongs here: what is asked for, appending answers, the newest answer of an event, quality. Does
not: predicting (`client.py`), Dagster (`assets.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import pandas as pd
from scipy.special import betaincinv

from ml_patterns.circuit_breaker.answers import COLUMNS
from ml_patterns.storage.sql import quoted

_CONFIDENCE = 0.95
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
}
_QUALITY = {
    "day": "TIMESTAMP",
    "region": "VARCHAR",
    "source": "VARCHAR",
    "rows": "BIGINT",
    "correct": "BIGINT",
    "accuracy": "DOUBLE",
    "lower_bound": "DOUBLE",
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


def newest_answers(
    connection: duckdb.DuckDBPyConnection, pipeline: str, start: datetime, end: datetime
) -> pd.DataFrame:
    """The newest answer of each event in [start, end): event_id, region, source."""
    if not has_predictions(connection, pipeline):
        return pd.DataFrame({"event_id": [], "region": [], "source": []})
    return connection.execute(
        f"SELECT event_id, region, source FROM {quoted(pipeline)}.predictions "
        "WHERE partition_start >= ? AND partition_start < ? "
        "QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY made_at DESC) = 1",
        [_naive(start), _naive(end)],
    ).df()


def base_rates(connection: duckdb.DuckDBPyConnection, pipeline: str) -> dict[str, float]:
    """Share of positives among each region's labelled rows."""
    rows = connection.execute(
        f"SELECT region, avg(CAST(label AS INTEGER)) FROM {quoted(pipeline)}.event_features "
        "WHERE label IS NOT NULL GROUP BY region"
    ).fetchall()
    return dict(rows)


def still_to_ask(rows: pd.DataFrame, newest: pd.DataFrame) -> pd.DataFrame:
    """The rows of a degraded partition whose newest answer is not live."""
    live = newest.loc[newest["source"] == "live", "event_id"]
    return rows[~rows["event_id"].isin(set(live))]


def append(
    connection: duckdb.DuckDBPyConnection, pipeline: str, answers: pd.DataFrame, made_at: datetime
) -> None:
    """Adds answers, in one transaction; nothing that was answered before is touched.

    Args:
        answers: partition_start, event_id, region and `answers.COLUMNS`.
        made_at: when they were made, UTC.
    """
    columns = ", ".join(f"CAST({name} AS {type_}) AS {name}" for name, type_ in _TYPES.items())
    types = ", ".join(f"{name} {type_}" for name, type_ in _TYPES.items())
    schema = quoted(pipeline)
    incoming = answers.assign(made_at=_naive(made_at))[list(_TYPES)]
    connection.execute("BEGIN")
    try:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.predictions ({types})")
        if len(incoming):
            connection.register("incoming", incoming)
            connection.execute(
                f"INSERT INTO {schema}.predictions BY NAME SELECT {columns} FROM incoming"
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def lower_bound(correct: int, rows: int, confidence: float = _CONFIDENCE) -> float:
    """One-sided Clopper-Pearson bound of a share (Clopper and Pearson 1934, Biometrika 26)."""
    if correct == 0:
        return 0.0
    return float(betaincinv(correct, rows - correct + 1, 1 - confidence))


def judge_day(
    connection: duckdb.DuckDBPyConnection, pipeline: str, start: datetime, end: datetime
) -> pd.DataFrame:
    """Measures a day's newest answers against the labels known by now, and writes it down.

    Returns:
        region, source, rows, correct, accuracy, lower_bound (one-sided, 95 %); one row per region
        and source that answered.
    """
    schema = quoted(pipeline)
    types = ", ".join(f'"{name}" {type_}' for name, type_ in _QUALITY.items())
    if not has_predictions(connection, pipeline):
        append(connection, pipeline, _no_answers(), start)
    judged = connection.execute(
        f"""
        WITH newest AS (
            SELECT * FROM {schema}.predictions WHERE partition_start >= ? AND partition_start < ?
            QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY made_at DESC) = 1
        )
        SELECT newest.region, newest.source, count(*) AS rows,
               count(*) FILTER (WHERE (newest.prediction >= 0.5) = features.label) AS correct
        FROM newest JOIN {schema}.event_features AS features
          ON features.partition_start = newest.partition_start
         AND features.event_id = newest.event_id
        WHERE features.label IS NOT NULL
        GROUP BY ALL ORDER BY ALL
        """,
        [_naive(start), _naive(end)],
    ).df()
    judged["accuracy"] = judged["correct"] / judged["rows"]
    judged["lower_bound"] = [
        lower_bound(int(correct), int(rows))
        for correct, rows in zip(judged["correct"], judged["rows"], strict=True)
    ]
    connection.execute("BEGIN")
    try:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.prediction_quality ({types})")
        connection.execute(
            f"DELETE FROM {schema}.prediction_quality WHERE day = ?", [_naive(start)]
        )
        if len(judged):
            connection.register("judged", judged.assign(day=_naive(start)))
            connection.execute(
                f"INSERT INTO {schema}.prediction_quality BY NAME SELECT * FROM judged"
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return judged


def unanswered_rows(
    connection: duckdb.DuckDBPyConnection, pipeline: str, starts: Sequence[datetime]
) -> int:
    """Rows of these partitions that no prediction answers."""
    found = connection.execute(
        f"SELECT count(*) FROM {quoted(pipeline)}.event_features AS features "
        f"ANTI JOIN {quoted(pipeline)}.predictions AS predictions "
        "USING (partition_start, event_id) WHERE list_contains(?, partition_start)",
        [[_naive(start) for start in starts]],
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
        [[_naive(start) for start in starts]],
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
        [[_naive(start) for start in starts]],
    ).fetchone()
    return float(found[0]) if found else 0.0


def live_quality(
    connection: duckdb.DuckDBPyConnection, pipeline: str, first: datetime, last: datetime
) -> pd.DataFrame:
    """How good live answers were from one day to another, both included.

    Returns:
        region, rows, correct, lower_bound (of the accuracy, one-sided, 95 %); one row per region.
    """
    judged = connection.execute(
        "SELECT region, CAST(sum(rows) AS BIGINT) AS rows, "
        "CAST(sum(correct) AS BIGINT) AS correct "
        f"FROM {quoted(pipeline)}.prediction_quality "
        "WHERE source = 'live' AND day >= ? AND day <= ? GROUP BY region ORDER BY region",
        [_naive(first), _naive(last)],
    ).df()
    return judged.assign(
        lower_bound=[
            lower_bound(int(correct), int(rows))
            for correct, rows in zip(judged["correct"], judged["rows"], strict=True)
        ]
    )


def predicted_partitions(connection: duckdb.DuckDBPyConnection, pipeline: str) -> list[datetime]:
    """Starts (UTC) of all partitions with predictions."""
    rows = connection.execute(
        f"SELECT DISTINCT partition_start FROM {quoted(pipeline)}.predictions ORDER BY 1"
    ).fetchall()
    return [start.replace(tzinfo=UTC) for (start,) in rows]


def _no_answers() -> pd.DataFrame:
    return pd.DataFrame({name: [] for name in ("partition_start", "event_id", "region", *COLUMNS)})


def _naive(moment: datetime) -> datetime:
    """As the warehouse writes it: UTC without a zone."""
    return moment.replace(tzinfo=None)
