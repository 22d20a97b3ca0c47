"""Copying the rows that count, each event in its newest version.

Belongs here: reading files row by row for some partitions, and choosing versions. Does not: which
partitions are copied at all (`loading.py`), judging rows (`manifest.py`).

Within a partition the newest version of an event wins, ties broken by content, never by arrival.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.incremental import sources
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.incremental.plan import interval
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted


@dataclass(frozen=True)
class Counts:
    """Where a partition's accepted rows went: kept + superseded + duplicate = accepted.

    Attributes:
        scanned: its share of all rows in the files that were read for it.
    """

    accepted: int = 0
    kept: int = 0
    superseded: int = 0
    duplicate: int = 0
    scanned: int = 0


def copy(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    stream: sources.Columns,
    partitions: Sequence[datetime],
    scratch: str,
) -> dict[datetime, Counts]:
    """Table `_events` in scratch: the newest versions of the events of some partitions."""
    if not partitions:
        return {}
    events = settings.events
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in stream.items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE _rows({columns}, _partition TIMESTAMP)")
    _choose_entries(connection, settings, partitions)
    for select in _selects(connection, settings, stream, partitions):
        connection.execute(f"INSERT INTO _rows BY NAME {select}")
    names = {
        "id": quoted(events.id), "version": quoted(events.version), "events": f"{scratch}._events",
    }  # fmt: skip
    connection.execute(_DEDUPLICATE.format(**names, content=_content(stream)))
    scanned = _scanned(connection, settings)
    rows = connection.execute(_COUNT.format(**names)).fetchall()
    return {
        partition: Counts(accepted, kept, superseded, duplicate, scanned[partition])
        for partition, accepted, kept, superseded, duplicate in rows
    }


def accepted(connection: duckdb.DuckDBPyConnection) -> dict[datetime, int]:
    """Rows of each partition that the ledger accepted when `copy` last asked it."""
    rows = connection.execute(
        "SELECT partition_start, sum(rows)::BIGINT FROM _chosen GROUP BY partition_start"
    ).fetchall()
    return dict(rows)


_DEDUPLICATE = """
CREATE OR REPLACE TEMP TABLE _repeated AS
    SELECT _partition, {id} FROM _rows GROUP BY ALL HAVING count(*) > 1;
CREATE OR REPLACE TEMP TABLE _versions AS
    SELECT *, row_number() OVER newest AS _rank, {content} AS _content
    FROM _rows SEMI JOIN _repeated USING (_partition, {id})
    WINDOW newest AS (
        PARTITION BY _partition, {id} ORDER BY {version} DESC NULLS LAST, {content} DESC
    );
CREATE OR REPLACE TABLE {events} AS
    SELECT * FROM (
        SELECT * FROM _rows ANTI JOIN _repeated USING (_partition, {id})
        UNION ALL BY NAME
        SELECT * EXCLUDE (_rank, _content) FROM _versions WHERE _rank = 1
    )
    ORDER BY _partition, {id};
"""

_COUNT = """
SELECT _partition, accepted, coalesce(kept, 0), accepted - kept - coalesce(duplicate, 0),
    coalesce(duplicate, 0)
FROM (SELECT _partition, count(*) AS accepted FROM _rows GROUP BY ALL)
LEFT JOIN (SELECT _partition, count(*) AS kept FROM {events} GROUP BY ALL) USING (_partition)
LEFT JOIN (
    SELECT _partition, sum(copies - 1)::BIGINT AS duplicate FROM (
        SELECT _partition, count(*) AS copies FROM _versions GROUP BY _partition, {id}, _content
    ) GROUP BY ALL
) USING (_partition)
"""


def _content(stream: sources.Columns) -> str:
    """A row's whole content as text."""
    return f"CAST(ROW({', '.join(map(quoted, stream))}) AS VARCHAR)"


def _choose_entries(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> None:
    """Temporary table `_chosen`: which rows of which file count for which partition."""
    skew = interval(settings.events.allowed_skew)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE _chosen AS
        SELECT path, revision, partition_start, sum(rows) AS rows,
            any_value(registered_at) + {skew} AS future_after,
            bool_or(class = 'future') AS future, bool_or(class <> 'future') AS past
        FROM {quoted(settings.name)}.entries
        WHERE counts AND list_contains(?::TIMESTAMP[], partition_start)
        GROUP BY path, revision, partition_start
        """,
        [list(partitions)],
    )


def _scanned(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> dict[datetime, int]:
    """All rows of the files that were read, shared out to the partitions they were read for."""
    rows = connection.execute(
        f"""
        SELECT partition_start, round(sum(c.rows * held.rows / wanted.rows))::BIGINT
        FROM _chosen c
        JOIN (SELECT revision, sum(rows) AS rows FROM _chosen GROUP BY revision) wanted
            USING (revision)
        JOIN (
            SELECT revision, sum(rows) AS rows FROM {quoted(settings.name)}.partition_manifest
            GROUP BY revision
        ) held USING (revision)
        GROUP BY partition_start
        """
    ).fetchall()
    return dict(rows)


def _selects(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    stream: sources.Columns,
    partitions: Sequence[datetime],
) -> list[str]:
    """One SELECT per group of files that share kind and columns."""
    events, grain = settings.events, Grain(settings.events.grain)
    time, region = f"e.{quoted(events.time)}", f"e.{quoted(events.region)}"
    files = connection.execute(
        f"SELECT path, columns, types FROM {quoted(settings.name)}.current_files "
        "WHERE path IN (SELECT path FROM _chosen) ORDER BY path"
    ).fetchall()
    if not files:
        return []
    groups: dict[tuple[str, ...], list[str]] = {}
    described: dict[tuple[str, ...], dict[str, str]] = {}
    for path, names, types in files:
        group = (*sources.kind_of(path), *names, *types)
        groups.setdefault(group, []).append(path)
        described[group] = dict(zip(names, types, strict=True))
    between = (timestamp(min(partitions)), timestamp(max(partitions) + grain.length))
    chosen = ", ".join(f"e.{quoted(name)}" for name in stream)
    return [
        f"SELECT {chosen}, c.partition_start AS _partition "
        f"FROM ({sources.typed_rows(paths, described[group], stream, events, between)}) e "
        f"JOIN _chosen c ON c.path = e.{sources.FILE_COLUMN} "
        f"AND c.partition_start = date_trunc('{events.grain}', {time}) "
        f"WHERE e.{quoted(events.id)} IS NOT NULL "
        f"AND trim(CAST({region} AS VARCHAR)) <> '' "
        f"AND CASE WHEN {time} > c.future_after THEN c.future ELSE c.past END"
        for group, paths in groups.items()
    ]
