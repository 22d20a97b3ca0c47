"""What the user's SQL sees, and what it must return.

Belongs here: the relations `events`, `aggregates` and the external tables, and running the two SQL
files over one partition. Does not: reading files (`loading.py`), writing the result (`build.py`).

The relations are views over a session variable that holds the partition, so that they are made
once for many partitions; DuckDB folds it into a constant and still skips what lies elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.errors import TransformError
from ml_patterns.incremental import loading
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.manifest import stream_columns, timestamp
from ml_patterns.incremental.plan import Layer, interval
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import literal, quoted
from ml_patterns.storage.warehouse import has_table

RESULT = "_result"
_PARTITION = "getvariable('_partition')"
_REQUIRED = ("event_id", "event_time", "region", "label")
_NUMERIC = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
    "UBIGINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
)  # fmt: skip


@dataclass
class Transformation:
    """A layer's SQL, ready to run over one partition after another.

    Attributes:
        columns: column -> type of what it returns; the first is `partition_start`.
        shown: the SELECT behind the view `events` at present.
    """

    settings: PipelineSettings
    layer: Layer
    select: str
    columns: Mapping[str, str]
    loaded: str
    shown: str

    def run(
        self,
        connection: duckdb.DuckDBPyConnection,
        partition: datetime,
        file: loading.WholeFile | None,
    ) -> None:
        """Computes one partition into the temporary table `_result`.

        Args:
            file: the one file that is the partition; None: it is in `_events`.

        Raises:
            TransformError: names SQL file, partition and what the database said.
        """
        connection.execute(f"SET VARIABLE _partition = {timestamp(partition)}")
        if file:
            connection.execute(f"SET VARIABLE {loading.FILE_VARIABLE} = {literal(file.path)}")
        events = file.select if file else self.loaded
        try:
            if events != self.shown:
                connection.execute(f"CREATE OR REPLACE TEMP VIEW events AS {events}")
                self.shown = events
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {RESULT} AS {self.select}")
        except duckdb.Error as error:
            key = Grain(self.settings.events.grain).key(partition)
            raise TransformError(_failed(self.settings, self.layer, key, error)) from error


def prepare(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> Transformation:
    """Makes the views that a layer's SQL sees and finds out what it returns.

    Raises:
        TransformError: nothing was read yet, or the SQL cannot run or returns something unusable.
    """
    stream = stream_columns(connection, settings.name)
    if not stream:
        raise TransformError(
            f"pipeline {settings.name} has read no file yet; "
            f"materialize {settings.name}/event_files first"
        )
    connection.execute("SET VARIABLE _partition = NULL::TIMESTAMP")
    loading.empty_events(connection, stream)
    events = f"SELECT {', '.join(map(quoted, stream))} FROM _events WHERE _partition = {_PARTITION}"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW events AS {events}")
    if layer == "features":
        _show_aggregates(connection, settings)
        for table in settings.external:
            _show_external(connection, settings, table)
    sql = settings.aggregates_sql if layer == "aggregates" else settings.features_sql
    query = f"({sql.strip().rstrip(';')}\n)"  # the SQL may end in a comment
    try:
        found = _described(connection, f"(SELECT * FROM {query})")
    except duckdb.Error as error:
        raise TransformError(_failed(settings, layer, None, error)) from error
    selected = _selected(settings, layer, found)
    select = f"SELECT {_PARTITION} AS partition_start, {selected} FROM {query}"
    columns = _described(connection, f"({select})")
    return Transformation(settings, layer, select, columns, loaded=events, shown=events)


def _failed(settings: PipelineSettings, layer: Layer, key: str | None, error: duckdb.Error) -> str:
    message = str(error).strip().splitlines()[0]
    where = f" for partition {key}" if key else ""
    return f"{_place(settings, layer)} failed{where}: {message}"


def _place(settings: PipelineSettings, layer: Layer) -> str:
    block = settings.aggregates if layer == "aggregates" else settings.features
    return f"{block.sql} of pipeline {settings.name}"


def _show_aggregates(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> None:
    """The window strictly before a partition; labels only where they were known by its start."""
    grain, block = Grain(settings.events.grain), settings.aggregates
    if not has_table(connection, settings.name, "event_aggregates"):
        raise TransformError(
            f"pipeline {settings.name} has no aggregates yet; "
            f"materialize {settings.name}/event_aggregates first"
        )
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
        f"<= {_PARTITION}"
    )
    selected = ", ".join(
        f"CASE WHEN {known} THEN {quoted(name)} END AS {quoted(name)}"
        if name in block.label_columns
        else quoted(name)
        for name in columns
    )
    window = interval(grain.length * block.window)
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW aggregates AS SELECT {selected} FROM {table} "
        f"WHERE partition_start >= {_PARTITION} - {window} AND partition_start < {_PARTITION}"
    )


def _show_external(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, external: ExternalSettings
) -> None:
    """The rows that an HTTP API gave for the partition's day; none while it was not asked."""
    table = "external_" + external.name
    if has_table(connection, settings.name, table):
        source = f"{quoted(settings.name)}.{quoted(table)}"
        relation = (
            f"SELECT * EXCLUDE (partition_start) FROM {source} "
            f"WHERE partition_start = date_trunc('day', {_PARTITION})"
        )
    else:
        connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS response(body JSON, region VARCHAR, page BIGINT)"
        )
        relation = external.select.strip().rstrip(";")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(external.name)} AS {relation}")


def _described(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    rows = connection.execute(f"DESCRIBE FROM {relation}").fetchall()
    return {row[0]: row[1] for row in rows}


def _selected(settings: PipelineSettings, layer: Layer, found: Mapping[str, str]) -> str:
    """The columns that are kept of what a layer's SQL returns, as SQL."""
    where = _place(settings, layer)
    if layer == "features":
        _check_features(found, where)
        return _feature_columns(found)
    if "partition_start" in found:
        raise TransformError(
            f"{where} returns partition_start, which is added by itself; leave it out"
        )
    return ", ".join(map(quoted, found))


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
