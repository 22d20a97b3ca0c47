"""Rows that do not count: listing them, and letting them count after all.

Belongs here: the dead letter, a view over the ledger. Does not: deciding which rows do not count
(`manifest.py`).
"""

from datetime import datetime

import duckdb

from ml_patterns.incremental.grain import naive
from ml_patterns.incremental.ledger import Transaction
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted


def replay(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    at: datetime,
    *,
    path: str | None = None,
    partition: datetime | None = None,
) -> int:
    """Lets rows of the dead letter count after all; their partitions become due.

    Args:
        path: only of this file; None: of all.
        partition: only for this partition; None: for all.

    Returns:
        How many rows count now. Invalid rows and rows after the stream's end have no partition and
        cannot be replayed.
    """
    schema, end = quoted(settings.name), settings.events.end_time
    chosen = (
        f"FROM {schema}.dead_letter WHERE partition_start < coalesce(?, TIMESTAMP 'infinity') "
        "AND path = coalesce(?, path) AND partition_start = coalesce(?, partition_start)"
    )
    values = [end and naive(end), path, partition]
    with Transaction(connection):
        row = connection.execute(f"SELECT sum(rows) {chosen}", values).fetchone()
        connection.execute(
            f"INSERT INTO {schema}.replays SELECT path, partition_start, class, ? {chosen}",
            [naive(at), *values],
        )
    return int(row[0] or 0) if row else 0


def dead_letters(
    connection: duckdb.DuckDBPyConnection, pipeline: str
) -> list[tuple[str, datetime | None, str, int, datetime, datetime | None]]:
    """Rows that do not count: path, partition, class, rows, registered at, watermark before."""
    return connection.execute(f"FROM {quoted(pipeline)}.dead_letter").fetchall()
