"""Which partitions want predictions, and which days want to be judged.

Belongs here: questions to the tables of features and predictions. Does not: answering them
(`predictions.py`), asking again what was degraded (`degraded.py`).
"""

import hashlib
from datetime import datetime

import duckdb

from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table


def unpredicted_partitions(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[datetime]:
    """Partitions (UTC) within the horizon of the newest that hold events nobody answered for."""
    schema = quoted(settings.name)
    if not has_table(connection, settings.name, "event_features"):
        return []
    answered = ""
    if has_table(connection, settings.name, "predictions"):
        answered = f"ANTI JOIN {schema}.predictions p USING (partition_start, event_id)"
    seconds = int(settings.predictions.horizon.total_seconds())
    rows = connection.execute(
        f"""
        SELECT DISTINCT partition_start FROM {schema}.event_features {answered}
        WHERE partition_start > (
            SELECT max(partition_start) FROM {schema}.event_features
        ) - INTERVAL {seconds} SECONDS
        ORDER BY partition_start
        """
    ).fetchall()
    return [row[0] for row in rows]


def unjudged_days(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[datetime]:
    """Days (UTC) with answers whose labels became known after they were last judged."""
    schema = quoted(settings.name)
    if not has_table(connection, settings.name, "predictions"):
        return []
    judged = "SELECT NULL::TIMESTAMP AS day, 0 AS rows"
    if has_table(connection, settings.name, "prediction_quality"):
        judged = f"SELECT day, sum(rows) AS rows FROM {schema}.prediction_quality GROUP BY day"
    rows = connection.execute(
        f"""
        SELECT day FROM (
            SELECT date_trunc('day', partition_start)::TIMESTAMP AS day,
                count(DISTINCT event_id) AS labelled
            FROM {schema}.predictions JOIN {schema}.event_features
                USING (partition_start, event_id)
            WHERE label IS NOT NULL GROUP BY ALL
        ) LEFT JOIN ({judged}) USING (day)
        WHERE labelled IS DISTINCT FROM rows ORDER BY day
        """
    ).fetchall()
    return [row[0] for row in rows]


def progress(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> str:
    """Hash of what partitions want: the same again means that a request was not carried out."""
    schema = quoted(settings.name)
    known = [
        connection.execute(f"SELECT {what} FROM {schema}.{table}").fetchall()
        for table, what in (
            ("partition_state", "sum(generation) FILTER (layer = 'features')"),
            ("predictions", "count(*)"),
        )
        if has_table(connection, settings.name, table)
    ]
    return hashlib.sha256(str(known).encode()).hexdigest()[:16]
