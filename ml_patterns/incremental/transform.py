"""What the user's SQL sees, and what it must return.

Belongs here: the relations `events`, `aggregates` and the external tables, and one SELECT that runs
a layer's SQL over some partitions. Does not: reading files (`loading.py`), running the SELECT
(`computing.py`), writing the result (`commit.py`).

The relations are common table expressions around the user's SQL, with the partition as a constant:
nothing is left behind in the session, DuckDB skips what lies elsewhere, and one statement computes
many partitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.errors import TransformError
from ml_patterns.incremental import loading
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.ledger import stream_columns
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.incremental.plan import Layer, interval
from ml_patterns.incremental.sources import NOTHING
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

_PARTITION = "<partition>"  # no SQL that runs holds this
_REQUIRED = ("event_id", "event_time", "region", "label")
_NUMERIC = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
    "UBIGINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
)  # fmt: skip


@dataclass(frozen=True)
class Transformation:
    """A layer's SQL, ready to run over any partitions.

    Attributes:
        columns: column -> type of what it returns; the first is `partition_start`.
        relations: name -> SELECT of what the SQL sees beside `events`.
        selected: what is kept of what it returns.
        query: the SQL itself.
    """

    settings: PipelineSettings
    layer: Layer
    columns: Mapping[str, str]
    relations: Mapping[str, str]
    selected: str
    query: str

    def select(self, events: Mapping[datetime, str]) -> str:
        """The result for some partitions.

        Args:
            events: partition -> the SELECT of its events.
        """
        return "\nUNION ALL\n".join(
            _over(self.query, self.selected, {"events": select, **self.relations}, partition)
            for partition, select in events.items()
        )

    def failed(self, partition: datetime, error: duckdb.Error) -> TransformError:
        """Names SQL file, partition and what the database said."""
        key = Grain(self.settings.events.grain).key(partition)
        return TransformError(_failed(self.settings, self.layer, key, error))


def prepare(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> Transformation:
    """Finds out what a layer's SQL returns.

    Raises:
        TransformError: nothing was read yet, or the SQL cannot run or returns something unusable.
    """
    stream = stream_columns(connection, settings.name)
    if not stream:
        raise TransformError(
            f"pipeline {settings.name} has read no file yet; "
            f"materialize {settings.name}/event_files first"
        )
    relations = {}
    if layer == "features":
        relations = {"aggregates": _aggregates(connection, settings)}
        for table in settings.external:
            relations |= _external(connection, settings, table)
    sql = settings.aggregates_sql if layer == "aggregates" else settings.features_sql
    query = f"({sql.strip().rstrip(';')}\n)"  # the SQL may end in a comment
    nothing = {"events": loading.no_events(stream), **relations}
    try:
        found = _described(connection, _over(query, "*", nothing))
    except duckdb.Error as error:
        raise TransformError(_failed(settings, layer, None, error)) from error
    selected = f"{_PARTITION} AS partition_start, {_selected(settings, layer, found)}"
    columns = (
        {"partition_start": "TIMESTAMP"} | found
        if layer == "aggregates"
        else _described(connection, _over(query, selected, nothing))
    )
    return Transformation(settings, layer, columns, relations, selected, query)


def _over(
    query: str, selected: str, relations: Mapping[str, str], partition: datetime | None = None
) -> str:
    """A query over the relations of one partition.

    They are not materialised: what a query does not need of them is not read.
    """
    start = timestamp(partition)
    shown = ",\n".join(
        f"{quoted(name)} AS NOT MATERIALIZED ({select.replace(_PARTITION, start)})"
        for name, select in relations.items()
    )
    return f"(WITH {shown}\nSELECT {selected.replace(_PARTITION, start)} FROM {query})"


def _failed(settings: PipelineSettings, layer: Layer, key: str | None, error: duckdb.Error) -> str:
    message = str(error).strip().splitlines()[0]
    where = f" for partition {key}" if key else ""
    return f"{_place(settings, layer)} failed{where}: {message}"


def _place(settings: PipelineSettings, layer: Layer) -> str:
    block = settings.aggregates if layer == "aggregates" else settings.features
    return f"{block.sql} of pipeline {settings.name}"


def _aggregates(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> str:
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
    return (
        f"SELECT {selected} FROM {table} "
        f"WHERE partition_start >= {_PARTITION} - {window} AND partition_start < {_PARTITION}"
    )


def _external(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, external: ExternalSettings
) -> dict[str, str]:
    """The rows that an HTTP API gave for the partition's day; none while it was not asked."""
    table = "external_" + external.name
    if has_table(connection, settings.name, table):
        source = f"{quoted(settings.name)}.{quoted(table)}"
        return {
            external.name: f"SELECT * EXCLUDE (partition_start) FROM {source} "
            f"WHERE partition_start = date_trunc('day', {_PARTITION})"
        }
    response = "SELECT NULL::JSON AS body, NULL::VARCHAR AS region, NULL::BIGINT AS page"
    return {
        external.name: f"WITH response AS ({response} WHERE FALSE) "
        f"SELECT * FROM ({external.select.strip().rstrip(';')}\n)"
    }


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
        usable = kind in ("VARCHAR", NOTHING) or kind.startswith((*_NUMERIC, "ENUM"))
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
        if kind.startswith("ENUM") or kind == NOTHING
        else quoted(name)
        for name, kind in found.items()
        if name not in _REQUIRED
    ]
    return ", ".join(first + rest)
