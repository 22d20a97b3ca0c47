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
from datetime import UTC, datetime
from typing import Any, Self

import duckdb

from ml_patterns.base import Clock
from ml_patterns.errors import ConflictError, SourceFileError, TransformError
from ml_patterns.incremental import ledger, loading, sources, transform
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.ledger import Transaction
from ml_patterns.incremental.loading import Counts
from ml_patterns.incremental.manifest import Step, timestamp
from ml_patterns.incremental.plan import Layer, Wanted, code_of, wanted
from ml_patterns.incremental.transform import RESULT
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

_ROWS_AT_ONCE = 2_000_000

TABLES: Mapping[Layer, str] = {"aggregates": "event_aggregates", "features": "event_features"}


@dataclass(frozen=True)
class Built:
    """A partition that was committed.

    Attributes:
        counts: accepted = kept + superseded + duplicate.
        rows: rows written to the layer's table.
        scanned: rows read from landed files for it, those of other partitions included.
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
        TransformError: with a sentence; partitions before it are committed.
        SourceFileError: names files that are gone or changed, after all partitions that do not
            need them were committed.
    """
    pipeline = settings.name
    if not partitions:
        return
    ledger.ensure_tables(connection, pipeline)
    sources.attach_filesystem(connection, settings.event_glob)
    wants = wanted(connection, settings, layer, partitions)
    _prepare(connection, pipeline, layer, partitions)
    generations = _generations(connection, pipeline, layer, partitions)
    transformation = transform.prepare(connection, settings, layer)
    nothing = Wanted("none", code_of(settings, layer), "-")
    problems: set[str] = set()
    fits = False
    for batch in _batches(connection, settings, partitions):
        started = monotonic()
        loaded = loading.load(connection, settings, batch)
        problems |= set(loaded.problems.values())
        step("loaded")
        share = (monotonic() - started) / len(batch)
        for partition, counts in loaded.counts.items():
            started = monotonic()
            file = loaded.direct.get(partition)
            transformation.run(connection, partition, file)
            changed = file.problem() if file else None
            if changed:
                problems.add(changed)
                continue
            if layer == "features":
                _check_rows(connection, settings, partition, counts.kept)
            step("computed")
            with _Partition(connection, pipeline, layer, partition) as commit:
                generation = commit.claim(generations[partition], wants.get(partition, nothing))
                step("claimed")
                if not fits:
                    commit.fit_table(transformation.columns)
                    fits = True
                commit.delete()
                step("deleted")
                rows = commit.insert()
                step("inserted")
                seconds = share + monotonic() - started
                commit.record_cost(generation, counts, seconds, clock())
                step("before commit")
            step("committed")
            yield Built(partition, counts, rows, counts.scanned, seconds, generation)
    if problems:
        raise SourceFileError("; ".join(sorted(problems)))


def committed(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> list[tuple[Built, datetime]]:
    """What is built in a layer at present, as it was when it was built, and when that was (UTC)."""
    if not has_table(connection, settings.name, TABLES[layer]):
        return []
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT partition_start, accepted, kept, superseded, duplicate, scanned,
            coalesce(held.rows, 0), seconds, generation, computed_at
        FROM {schema}.run_cost
        JOIN {schema}.partition_state USING (layer, partition_start, generation)
        LEFT JOIN (
            SELECT partition_start, count(*) AS rows FROM {schema}.{TABLES[layer]} GROUP BY ALL
        ) held USING (partition_start)
        WHERE layer = ? ORDER BY partition_start
        """,
        [layer],
    ).fetchall()
    return [
        (
            Built(row[0], Counts(*row[1:6]), row[6], row[5], row[7], row[8]),
            row[9].replace(tzinfo=UTC),
        )
        for row in rows
    ]


def _batches(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> Iterator[list[datetime]]:
    """Partitions in order, cut so that each batch's accepted rows fit in memory."""
    sizes = dict(
        connection.execute(
            f"SELECT partition_start, sum(rows)::BIGINT FROM {quoted(settings.name)}.entries "
            "WHERE counts AND list_contains(?::TIMESTAMP[], partition_start) "
            "GROUP BY partition_start",
            [list(partitions)],
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
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    layer: Layer,
    partitions: Sequence[datetime],
) -> dict[datetime, int]:
    return dict(
        connection.execute(
            f"SELECT partition_start, generation FROM {quoted(pipeline)}.partition_state "
            "WHERE layer = ? AND list_contains(?::TIMESTAMP[], partition_start)",
            [layer, list(partitions)],
        ).fetchall()
    )


class _Partition:
    """The transaction that replaces one partition by `_result`.

    Raises:
        ConflictError: somebody else built it meanwhile, also when only the commit shows it.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        pipeline: str,
        layer: Layer,
        partition: datetime,
    ) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._layer = layer
        self._partition = partition
        self._table = f"{quoted(pipeline)}.{TABLES[layer]}"
        self._transaction = Transaction(connection)

    def __enter__(self) -> Self:
        self._transaction.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        try:
            self._transaction.__exit__(kind, error, trace)
        except duckdb.TransactionException as conflict:
            raise self._lost() from conflict
        if isinstance(error, duckdb.TransactionException):
            raise self._lost() from error

    def claim(self, generation: int, want: Wanted) -> int:
        """Compare-and-set of the generation row; returns the new generation."""
        row = self._connection.execute(
            f"UPDATE {quoted(self._pipeline)}.partition_state "
            "SET events = ?, code = ?, upstream = ?, generation = generation + 1 "
            "WHERE layer = ? AND partition_start = ? AND generation = ? RETURNING generation",
            [want.events, want.code, want.upstream, self._layer, self._partition, generation],
        ).fetchone()
        if row is None:
            raise self._lost()
        return int(row[0])

    def fit_table(self, columns: Mapping[str, str]) -> None:
        """Adds, retypes and drops columns so that the table fits what the SQL returns now.

        Partitions that the old SQL computed are due anyway: their code differs.
        """
        connection, table = self._connection, self._table
        if not has_table(connection, self._pipeline, TABLES[self._layer]):
            connection.execute(f"CREATE TABLE {table} AS FROM {RESULT} LIMIT 0")
            return
        present = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
        for name, kind in columns.items():
            if name in present and present[name] != kind:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(name)}")
            if present.get(name) != kind:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kind}")
        for name in present:
            if name not in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(name)}")

    def delete(self) -> None:
        """Takes out what was built before."""
        self._connection.execute(
            f"DELETE FROM {self._table} WHERE partition_start = {timestamp(self._partition)}"
        )

    def insert(self) -> int:
        """Puts in what was computed; returns the number of rows."""
        row = self._connection.execute(
            f"INSERT INTO {self._table} BY NAME FROM {RESULT}"
        ).fetchone()
        return int(row[0]) if row else 0

    def record_cost(self, generation: int, counts: Counts, seconds: float, at: datetime) -> None:
        """Notes where the rows went and what it took."""
        self._connection.execute(
            f"INSERT INTO {quoted(self._pipeline)}.run_cost VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                self._layer, self._partition, generation, naive(at), counts.accepted, counts.kept,
                counts.superseded, counts.duplicate, counts.scanned, seconds,
            ],
        )  # fmt: skip

    def _lost(self) -> ConflictError:
        return ConflictError(
            f"{self._layer} {self._partition} of {self._pipeline} was built by another process "
            "meanwhile; theirs stands"
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
