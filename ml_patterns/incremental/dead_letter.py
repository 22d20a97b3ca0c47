"""Rows that do not count and files that went away: what a person has to answer.

Belongs here: the dead letter, a view over the ledger; letting its rows count after all. Does not:
deciding which rows do not count (`manifest.py`), letting a removed file go (`ledger.py`).
"""

from datetime import datetime

import duckdb

from ml_patterns.incremental.files import list_files
from ml_patterns.incremental.grain import naive
from ml_patterns.incremental.ledger import Transaction
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

_NAMED = 5


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


def removed_files(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> list[str]:
    """A sentence for each of the first files that count and no longer lie where they were read.

    A last one says how many more there are: a moved landing zone is all of them.
    """
    counting = connection.execute(
        f"SELECT path FROM {quoted(settings.name)}.current_files WHERE state = 'read' ORDER BY path"
    ).fetchall()
    lying = {file.path for file in list_files(settings.event_glob)}
    gone = [path for (path,) in counting if path not in lying]
    more = [f"{len(gone) - _NAMED} more files whose rows count are gone"] * (len(gone) > _NAMED)
    return [*(removed(path, settings.name) for path in gone[:_NAMED]), *more]


def removed(path: str, pipeline: str) -> str:
    """What is the matter with a removed file, and what to do."""
    return (
        f"{path} was read before and is gone; its rows still count: put it back, or let it go with "
        f"`ml-patterns dead-letter acknowledge {pipeline} {path}`"
    )
