"""What the user's SQL sees, and what it must return.

Belongs here: the relations `events`, `aggregates` and the external tables, and running the two SQL
files over one partition. Does not: writing the result (`build.py`).

Within a partition the newest version of an event wins, ties broken by content, never by arrival.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.errors import SourceFileError, TransformError
from ml_patterns.incremental import sources
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.manifest import stream_columns, timestamp
from ml_patterns.incremental.plan import Layer, interval
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

RESULT = "_result"
_REQUIRED = ("event_id", "event_time", "region", "label")
_NUMERIC = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
    "UBIGINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
)  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Where a partition's accepted rows went: kept + superseded + duplicate = accepted."""

    accepted: int = 0
    kept: int = 0
    superseded: int = 0
    duplicate: int = 0


def load_events(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> tuple[dict[datetime, Counts], int]:
    """Reads the accepted rows of some partitions into `_events`, deduplicated.

    Returns:
        Per partition, where its rows went; and how many rows were read from files.

    Raises:
        SourceFileError: a file that the ledger knows cannot be read any more; names it.
    """
    events, stream = settings.events, stream_columns(connection, settings.name)
    _choose_entries(connection, settings, partitions)
    selects = _selects(connection, settings, stream, partitions)
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in stream.items())
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE _rows({columns or '_none INT'}, _partition TIMESTAMP)"
    )
    for select in selects:
        try:
            connection.execute(f"INSERT INTO _rows BY NAME {select}")
        except (duckdb.IOException, duckdb.HTTPException) as error:
            raise SourceFileError(
                f"a file of pipeline {settings.name} that was read before is gone "
                f"({str(error).splitlines()[0]}); put it back, or let it go with "
                f"`ml-patterns dead-letter acknowledge {settings.name} PATH`"
            ) from error
    names = {"id": quoted(events.id), "version": quoted(events.version)}
    connection.execute(_DEDUPLICATE.format(**names, content=_content(stream)))
    rows = connection.execute(_COUNT.format(**names)).fetchall()
    counts = {row[0]: Counts(*row[1:]) for row in rows}
    return counts, sum(count.accepted for count in counts.values())


_DEDUPLICATE = """
CREATE OR REPLACE TEMP TABLE _repeated AS
    SELECT _partition, {id} FROM _rows GROUP BY ALL HAVING count(*) > 1;
CREATE OR REPLACE TEMP TABLE _versions AS
    SELECT *, row_number() OVER newest AS _rank, {content} AS _content
    FROM _rows SEMI JOIN _repeated USING (_partition, {id})
    WINDOW newest AS (
        PARTITION BY _partition, {id} ORDER BY {version} DESC NULLS LAST, {content} DESC
    );
CREATE OR REPLACE TEMP TABLE _events AS
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
LEFT JOIN (SELECT _partition, count(*) AS kept FROM _events GROUP BY ALL) USING (_partition)
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
        SELECT path, partition_start, any_value(registered_at) + {skew} AS future_after,
            bool_or(class = 'future') AS future, bool_or(class <> 'future') AS past
        FROM {quoted(settings.name)}.entries
        WHERE counts AND list_contains(?::TIMESTAMP[], partition_start)
        GROUP BY path, partition_start
        """,
        [list(partitions)],
    )


def _selects(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    stream: sources.Columns,
    partitions: Sequence[datetime],
) -> list[str]:
    """One SELECT per group of files that share format and columns."""
    events, grain = settings.events, Grain(settings.events.grain)
    time, region = f"e.{quoted(events.time)}", f"e.{quoted(events.region)}"
    files = connection.execute(
        f"SELECT path, columns, types FROM {quoted(settings.name)}.current_files "
        "WHERE path IN (SELECT path FROM _chosen) ORDER BY path"
    ).fetchall()
    groups: dict[tuple[str, ...], list[str]] = {}
    described: dict[tuple[str, ...], dict[str, str]] = {}
    for path, names, types in files:
        group = (sources.format_of(path), *names, *types)
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


def run(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partition: datetime,
) -> dict[str, str]:
    """Computes one partition of a layer from `_events` into the temporary table `_result`.

    Returns:
        Column -> type of the result; its first column is `partition_start`.

    Raises:
        TransformError: the SQL failed or its result is unusable; names file, partition, remedy.
    """
    show(connection, settings, layer, partition)
    block = settings.aggregates if layer == "aggregates" else settings.features
    sql = settings.aggregates_sql if layer == "aggregates" else settings.features_sql
    where = f"{block.sql} of pipeline {settings.name}"
    try:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE _raw AS {sql.strip().rstrip(';')}")
    except duckdb.Error as error:
        key = Grain(settings.events.grain).key(partition)
        message = str(error).strip().splitlines()[0]
        raise TransformError(f"{where} failed for partition {key}: {message}") from error
    found = _described(connection, "_raw")
    columns = ", ".join(map(quoted, found))
    if layer == "features":
        _check_features(found, where)
        columns = _feature_columns(found)
    elif "partition_start" in found:
        raise TransformError(
            f"{where} returns partition_start, which is added by itself; leave it out"
        )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {RESULT} AS "
        f"SELECT {timestamp(partition)} AS partition_start, {columns} FROM _raw"
    )
    return _described(connection, RESULT)


def show(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partition: datetime,
) -> None:
    """Temporary views that the SQL of a layer sees for one partition."""
    stream = stream_columns(connection, settings.name)
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW events AS SELECT {', '.join(map(quoted, stream))} "
        f"FROM _events WHERE _partition = {timestamp(partition)}"
    )
    if layer == "features":
        _show_aggregates(connection, settings, partition)
        for table in settings.external:
            _show_external(connection, settings, table, partition)


def _show_aggregates(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, partition: datetime
) -> None:
    """The window strictly before a partition; labels only where they were known by its start."""
    grain, block = Grain(settings.events.grain), settings.aggregates
    table = f"{quoted(settings.name)}.event_aggregates"
    columns = _described(connection, table)
    unknown = [name for name in block.label_columns if name not in columns]
    if unknown:
        raise TransformError(
            f"aggregates.label_columns of pipeline {settings.name} names {', '.join(unknown)}, "
            f"which {block.sql} does not return; it returns {', '.join(columns)}"
        )
    known = (
        f"partition_start + {grain.interval} + {interval(settings.events.label_delay)} "
        f"<= {timestamp(partition)}"
    )
    selected = ", ".join(
        f"CASE WHEN {known} THEN {quoted(name)} END AS {quoted(name)}"
        if name in block.label_columns
        else quoted(name)
        for name in columns
    )
    first = partition - grain.length * block.window
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW aggregates AS SELECT {selected} FROM {table} "
        f"WHERE partition_start >= {timestamp(first)} AND partition_start < {timestamp(partition)}"
    )


def _show_external(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    external: ExternalSettings,
    partition: datetime,
) -> None:
    """The rows that an HTTP API gave for the partition's day; none while it was not asked."""
    table = "external_" + external.name
    if has_table(connection, settings.name, table):
        source = f"{quoted(settings.name)}.{quoted(table)}"
        relation = (
            f"SELECT * EXCLUDE (partition_start) FROM {source} "
            f"WHERE partition_start = date_trunc('day', {timestamp(partition)})"
        )
    else:
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS response(body JSON)")
        relation = external.select.strip().rstrip(";")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(external.name)} AS {relation}")


def _described(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    rows = connection.execute(f"DESCRIBE {table}").fetchall()
    return {row[0]: row[1] for row in rows}


def _check_features(found: Mapping[str, str], where: str) -> None:
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise TransformError(
            f"{where} does not return {', '.join(missing)}; it must return "
            f"{', '.join(_REQUIRED)} and the features"
        )
    for name, kind in found.items():
        usable = kind == "VARCHAR" or kind.startswith((*_NUMERIC, "ENUM"))
        if name not in _REQUIRED and (not usable or kind.endswith("]")):
            raise TransformError(
                f"{where} returns feature {name} as {kind}; "
                "cast it to VARCHAR (a category) or to a number"
            )


def _feature_columns(found: Mapping[str, str]) -> str:
    casts = {"event_id": "VARCHAR", "event_time": "TIMESTAMP", "region": "VARCHAR"}
    casts["label"] = "BOOLEAN"
    first = [f"CAST({name} AS {casts[name]}) AS {name}" for name in _REQUIRED]
    rest = [
        f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}"
        if kind.startswith("ENUM")
        else quoted(name)
        for name, kind in found.items()
        if name not in _REQUIRED
    ]
    return ", ".join(first + rest)
