"""Computing partitions and committing each of them exactly once.

Belongs here: the order of things inside a partition's transaction. Does not: what is due
(`plan.py`), what the SQL sees (`transform.py`).

One transaction per partition: compare-and-set its generation row, delete, insert, check, and record
as built what was wanted when the work began. Zero rows updated means that someone else won: stop,
no harm done. A kill before the commit changes nothing; after it, everything is there.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.base import Clock
from ml_patterns.errors import ConflictError, TransformError
from ml_patterns.incremental import ledger, transform
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.ledger import Transaction
from ml_patterns.incremental.manifest import Step, timestamp
from ml_patterns.incremental.plan import Layer, Wanted, wanted
from ml_patterns.incremental.transform import RESULT, Counts
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

_ROWS_AT_ONCE = 2_000_000
_NOTHING = Wanted("none", "", "-")

TABLES: Mapping[Layer, str] = {"aggregates": "event_aggregates", "features": "event_features"}


@dataclass(frozen=True)
class Built:
    """A partition that was committed.

    Attributes:
        counts: accepted = kept + superseded + duplicate.
        rows: rows written to the layer's table.
        scanned: rows read from landed files for it.
        generation: how often it has been built.
    """

    partition: datetime
    counts: Counts
    rows: int
    scanned: int
    seconds: float
    generation: int


def build(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partitions: Sequence[datetime],
    clock: Clock,
    step: Step = lambda name: None,
    monotonic: Callable[[], float] = time.perf_counter,
) -> Iterator[Built]:
    """Computes partitions of a layer and commits each in a transaction of its own.

    Landed files are read once for many partitions, as many as fit a bounded number of rows.

    Raises:
        ConflictError: somebody else built one of the partitions meanwhile; theirs stands.
        TransformError, SourceFileError: with a sentence; partitions before it are committed.
    """
    ledger.ensure_tables(connection, settings.name)
    wants = wanted(connection, settings, layer)
    _prepare(connection, settings.name, layer, partitions)
    generations = _generations(connection, settings.name, layer)
    for batch in _batches(connection, settings, partitions):
        started = monotonic()
        counts, _ = transform.load_events(connection, settings, batch)
        step("loaded")
        share = (monotonic() - started) / len(batch)
        for partition in batch:
            started = monotonic()
            _check_window(connection, settings, layer)
            columns = transform.run(connection, settings, layer, partition)
            found = counts.get(partition, Counts())
            if layer == "features":
                _check_rows(connection, settings, partition, found.kept)
            step("computed")
            with Transaction(connection):
                generation = _claim(
                    connection, settings.name, layer, partition, generations[partition],
                    wants.get(partition, _NOTHING),
                )  # fmt: skip
                step("claimed")
                rows = _replace(connection, settings.name, layer, partition, columns, step)
                seconds = share + monotonic() - started
                _record_cost(
                    connection, settings.name, layer, partition, generation, found, seconds, clock()
                )
                step("before commit")
            step("committed")
            yield Built(partition, found, rows, found.accepted, seconds, generation)


def _batches(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> Iterator[list[datetime]]:
    """Partitions in order, cut so that each batch's accepted rows fit in memory."""
    sizes = dict(
        connection.execute(
            f"SELECT partition_start, sum(rows)::BIGINT FROM {quoted(settings.name)}.entries "
            "WHERE counts GROUP BY partition_start"
        ).fetchall()
    )
    batch: list[datetime] = []
    rows = 0
    for partition in sorted(set(partitions)):
        size = sizes.get(partition, 0)
        if batch and rows + size > _ROWS_AT_ONCE:
            yield batch
            batch, rows = [], 0
        batch.append(partition)
        rows += size
    if batch:
        yield batch


def _prepare(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    layer: Layer,
    partitions: Sequence[datetime],
) -> None:
    """Makes sure that every partition has its generation row before anybody claims it."""
    connection.execute(
        f"INSERT INTO {quoted(pipeline)}.partition_state "
        "SELECT ?, unnest(?::TIMESTAMP[]), NULL, NULL, NULL, 0 ON CONFLICT DO NOTHING",
        [layer, sorted(set(partitions))],
    )


def _generations(
    connection: duckdb.DuckDBPyConnection, pipeline: str, layer: Layer
) -> dict[datetime, int]:
    return dict(
        connection.execute(
            f"SELECT partition_start, generation FROM {quoted(pipeline)}.partition_state "
            "WHERE layer = ?",
            [layer],
        ).fetchall()
    )


def _claim(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    layer: Layer,
    partition: datetime,
    generation: int,
    want: Wanted,
) -> int:
    """Compare-and-set of the generation row; within the partition's transaction.

    Raises:
        ConflictError: the row is no longer the one that was read at the start.
    """
    try:
        row = connection.execute(
            f"UPDATE {quoted(pipeline)}.partition_state "
            "SET events = ?, code = ?, upstream = ?, generation = generation + 1 "
            "WHERE layer = ? AND partition_start = ? AND generation = ? RETURNING generation",
            [want.events, want.code, want.upstream, layer, partition, generation],
        ).fetchone()
    except duckdb.TransactionException as error:
        raise ConflictError(_lost(pipeline, layer, partition)) from error
    if row is None:
        raise ConflictError(_lost(pipeline, layer, partition))
    return int(row[0])


def _lost(pipeline: str, layer: Layer, partition: datetime) -> str:
    return (
        f"{layer} {partition} of {pipeline} was built by another process meanwhile; theirs stands"
    )


def _replace(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    layer: Layer,
    partition: datetime,
    columns: Mapping[str, str],
    step: Step,
) -> int:
    """Replaces a partition's rows by `_result`; the table follows the SQL's columns."""
    table = f"{quoted(pipeline)}.{TABLES[layer]}"
    if not has_table(connection, pipeline, TABLES[layer]):
        connection.execute(f"CREATE TABLE {table} AS FROM {RESULT} LIMIT 0")
    else:
        _follow(connection, table, columns)
    connection.execute(f"DELETE FROM {table} WHERE partition_start = {timestamp(partition)}")
    step("deleted")
    connection.execute(f"INSERT INTO {table} BY NAME FROM {RESULT}")
    step("inserted")
    row = connection.execute(f"SELECT count(*) FROM {RESULT}").fetchone()
    return int(row[0]) if row else 0


def _follow(connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str]) -> None:
    """Adds, retypes and drops columns so that the table fits what the SQL returns now.

    Partitions that the old SQL computed are due anyway: their code differs.
    """
    present = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
    for name, kind in columns.items():
        if name not in present:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kind}")
        elif present[name] != kind:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(name)}")
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kind}")
    for name in present:
        if name not in columns:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(name)}")


def _record_cost(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    layer: Layer,
    partition: datetime,
    generation: int,
    counts: Counts,
    seconds: float,
    at: datetime,
) -> None:
    connection.execute(
        f"INSERT INTO {quoted(pipeline)}.run_cost VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            layer, partition, generation, naive(at), counts.accepted, counts.kept,
            counts.superseded, counts.duplicate, counts.accepted, seconds,
        ],
    )  # fmt: skip


def _check_window(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> None:
    if layer == "features" and not has_table(connection, settings.name, TABLES["aggregates"]):
        raise TransformError(
            f"pipeline {settings.name} has no aggregates yet; "
            f"materialize {settings.name}/event_aggregates first"
        )


def _check_rows(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partition: datetime,
    kept: int,
) -> None:
    """`features.sql` must return every event of the partition exactly once, with its own time.

    Raises:
        TransformError: says what it returned instead.
    """
    grain = Grain(settings.events.grain)
    row = connection.execute(
        f"SELECT count(*), count(DISTINCT event_id), count(*) FILTER (region IS NULL), "
        f"count(*) FILTER (date_trunc('{grain.unit}', event_time) IS DISTINCT FROM partition_start)"
        f" FROM {RESULT}"
    ).fetchone()
    rows, events, nowhere, elsewhere = row or (0, 0, 0, 0)
    if (rows, events, nowhere, elsewhere) != (kept, kept, 0, 0):
        raise TransformError(
            f"{settings.features.sql} of pipeline {settings.name} returned {rows} rows with "
            f"{events} event ids for the {kept} events of partition {grain.key(partition)} "
            f"({nowhere} without region, {elsewhere} with a time outside of it); "
            "it must return each event once: check its joins and filters"
        )
